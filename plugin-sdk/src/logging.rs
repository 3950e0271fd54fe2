//! `tracing` events of the plugin go to the host's log, with their fields.

/// Sends the events of this guest to the host. Natively nothing: tests install what they like.
pub fn install() {
    #[cfg(target_family = "wasm")]
    guest::install();
}

#[cfg(target_family = "wasm")]
mod guest {
    use std::fmt::Debug;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use crate::bindings::contract::presence::plugin::log;

    struct ToHost {
        spans: AtomicU64,
    }

    #[derive(Default)]
    struct Fields {
        message: String,
        fields: Vec<(String, String)>,
    }

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.record_str(field, &format!("{value:?}"));
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            if field.name() == "message" {
                self.message = value.to_owned();
            } else {
                self.fields.push((field.name().to_owned(), value.to_owned()));
            }
        }
    }

    impl Subscriber for ToHost {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let level = match *event.metadata().level() {
                Level::ERROR => log::Level::Error,
                Level::WARN => log::Level::Warn,
                Level::INFO => log::Level::Info,
                Level::DEBUG => log::Level::Debug,
                Level::TRACE => log::Level::Trace,
            };
            log::log(level, &fields.message, &fields.fields);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    pub(super) fn install() {
        // An author who has installed another one keeps it.
        let _ = tracing::subscriber::set_global_default(ToHost { spans: AtomicU64::new(0) });
    }
}
