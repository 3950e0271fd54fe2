//! The bare typed call, measured beside the whole dispatch path by `cargo xtask bench`. Nothing else uses it.

use std::path::Path;
use std::time::{Duration, Instant};

use presence_core::delivery::Payload;

use super::backends::Backends;
use super::compile::CompileMode;
use super::guest::Guest;
use super::permit::Bounds;
use super::problem::{PluginError, Problem};
use super::registry::loader;
use super::watch::Watch;
use crate::settings::PluginSettings;

/// Calls the hook of `event` so many times on one guest: arguments lowered, the call, the answer lifted; no queue, no
/// watch, no counts. Returns how long all of it took. The guest must answer at once.
pub async fn time_bare_calls(
    settings: &PluginSettings,
    data_dir: &Path,
    compile: CompileMode,
    event: Payload,
    calls: u32,
) -> Result<Duration, PluginError> {
    let failed = |problem| PluginError {
        plugin: settings.name.as_str().into(),
        path: settings.path.clone(),
        problems: vec![problem],
    };
    let (runtime, loader) = loader(data_dir, compile, Backends::for_trials()).map_err(failed)?;
    let loaded = loader.load(settings, 1).await?;
    let measure = async move {
        let mut guest = Guest::start(&loaded, &mut Watch::new(Bounds::none()))
            .await
            .map_err(|no_guest| Problem::Start(format!("{no_guest:?}")))?;
        let began = Instant::now();
        for attempt in 1..=calls {
            let answer = guest.call_bare(&event, attempt).await;
            let delivered = answer.map_err(|error| Problem::Start(error.to_string()))?.is_ok();
            if !delivered {
                return Err(Problem::Start("the hook did not deliver".to_owned()));
            }
        }
        Ok(began.elapsed())
    };
    let ended = runtime.handle().spawn(measure).await;
    ended.unwrap_or_else(|error| Err(Problem::Host(error.to_string()))).map_err(failed)
}
