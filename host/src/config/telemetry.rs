//! `[telemetry]`: whether messages are traced, and where the spans go.

use http::Uri;

use super::reader::Table;
use crate::settings::TelemetrySettings;

/// The share of messages that are traced, if nothing is said.
const SAMPLE: f64 = 0.01;
/// The longest `service_name`, in bytes.
const MAX_NAME_BYTES: usize = 128;

pub(super) fn read(table: &mut Table<'_, '_>) -> Option<TelemetrySettings> {
    let otlp = table.string("otlp");
    let sample = table.ratio("sample", SAMPLE);
    let service_name = table.string("service_name");
    if let Some(name) = &service_name
        && !(1..=MAX_NAME_BYTES).contains(&name.value.len())
    {
        table.wrong(name, &format!("is a name of 1 to {MAX_NAME_BYTES} bytes, such as \"presence\""));
    }
    let Some(otlp) = otlp else {
        const ALONE: &str = "means something with telemetry.otlp only: say where a collector is, or drop it";
        if let Some(name) = &service_name {
            table.wrong(name, ALONE);
        }
        if let Some(sample) = table.any("sample") {
            table.wrong(&sample, ALONE);
        }
        return None;
    };
    let Some(address) = collector(&otlp.value) else {
        // Not repeated: it may hold a password.
        table.wrong(
            &otlp,
            "must be the address of an OTLP/HTTP collector without user, password or query, such as \
             \"http://127.0.0.1:4318\"",
        );
        return None;
    };
    let service_name = service_name.map_or_else(|| "presence".to_owned(), |name| name.value);
    Some(TelemetrySettings { otlp: address, sample, service_name })
}

fn collector(text: &str) -> Option<Uri> {
    let address: Uri = text.parse().ok()?;
    let known = matches!(address.scheme_str(), Some("http" | "https"));
    let plain = address.query().is_none() && !address.authority()?.as_str().contains('@');
    (known && plain && !address.host()?.is_empty()).then_some(address)
}
