//! `/metrics`: plain numbers in, OpenMetrics text out. Counts nothing itself.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::traffic::Traffic;
use crate::driver::Census;

/// Where the figures of the plugins come from.
pub trait Metrics: Send + Sync + 'static {
    /// One for each plugin and hook it exports.
    fn plugins(&self) -> Vec<PluginFigures>;
}

/// Counts since the start, of one hook of one plugin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PluginFigures {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// The hook's name, as in the contract.
    pub hook: &'static str,
    /// Calls started.
    pub calls: u64,
    /// Events delivered.
    pub delivered: u64,
    /// Calls that failed, by kind: `retry`, `reject`, `trap`, `stalled`.
    pub failures: Vec<(&'static str, u64)>,
    /// Events given up.
    pub dead_letters: u64,
    /// Calls that were not the first for their event.
    pub retries: u64,
    /// Older transitions that gave way to newer ones.
    pub coalesced: u64,
    /// Finished calls by duration: upper bound in seconds, and how many calls fell between the bound before and this
    /// one. Sorted; the last bound is infinite.
    pub latency_buckets: Vec<(f64, u64)>,
    /// The sum of all durations, in seconds.
    pub latency_sum: f64,
    /// Events waiting now.
    pub queue_depth: u64,
    /// Calls running now.
    pub running: u64,
}

/// The text for Prometheus. Without a census what it would tell is left out.
pub(super) fn render(
    census: Option<&Census>,
    traffic: &Traffic,
    plugins: &[PluginFigures],
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("presence");
    let [frames_in, frames_out] = traffic.frames();
    registry.register_collector(Box::new(Figures {
        census: census.cloned(),
        accepted: traffic.accepted(),
        refused: traffic.refused().map(|(reason, count)| (reason.as_str(), count)).collect(),
        frames: vec![("in", frames_in), ("out", frames_out)],
        errors: traffic.errors().map(|(code, count)| (code.as_str(), count)).collect(),
        plugins: plugins.to_vec(),
    }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Figures {
    census: Option<Census>,
    accepted: u64,
    refused: Vec<(&'static str, u64)>,
    frames: Vec<(&'static str, u64)>,
    errors: Vec<(&'static str, u64)>,
    plugins: Vec<PluginFigures>,
}

const STATUSES: [&str; 3] = ["online", "idle", "offline"];

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        if let Some(census) = &self.census {
            write_census(&mut encoder, census)?;
        }
        let mut accepted = encoder.encode_descriptor(
            "gateway_sessions_opened",
            "Sessions opened",
            None,
            MetricType::Counter,
        )?;
        write_count(&mut accepted, self.accepted)?;
        labelled(
            &mut encoder,
            "gateway_connections_refused",
            "Connections and requests for a session that were refused",
            "reason",
            &self.refused,
        )?;
        labelled(&mut encoder, "gateway_frames", "WebSocket frames of clients", "direction", &self.frames)?;
        labelled(&mut encoder, "gateway_errors", "Errors told to clients", "code", &self.errors)?;
        write_plugins(&mut encoder, &self.plugins)
    }
}

fn write_count(encoder: &mut MetricEncoder<'_>, count: u64) -> fmt::Result {
    encoder.encode_counter(&count, None::<&Exemplar<NoLabelSet, u64>>)
}

fn labelled(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    counts: &[(&'static str, u64)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in counts {
        write_count(&mut family.encode_family(&[(label, *value)])?, *count)?;
    }
    Ok(())
}

fn write_census(encoder: &mut DescriptorEncoder<'_>, census: &Census) -> fmt::Result {
    let mut sessions =
        encoder.encode_descriptor("sessions", "Sessions that this host holds", None, MetricType::Gauge)?;
    for (status, count) in STATUSES.into_iter().zip([census.sessions_online, census.sessions_idle]) {
        sessions.encode_family(&[("status", status)])?.encode_gauge(&count)?;
    }
    let help = "Users of the partitions that this host owns";
    let mut users = encoder.encode_descriptor("users", help, None, MetricType::Gauge)?;
    for (status, count) in STATUSES.into_iter().zip(census.users) {
        users.encode_family(&[("status", status)])?.encode_gauge(&count)?;
    }
    let help = "Transitions decided by this host, by the new status";
    let mut transitions = encoder.encode_descriptor("transitions", help, None, MetricType::Counter)?;
    for (status, count) in STATUSES.into_iter().zip(census.transitions) {
        write_count(&mut transitions.encode_family(&[("status", status)])?, count)?;
    }
    let help = "Decisions that gave way to a newer one before they were written";
    let mut coalesced =
        encoder.encode_descriptor("transitions_coalesced", help, None, MetricType::Counter)?;
    write_count(&mut coalesced, census.coalesced)?;
    for (name, help, count) in [
        ("watched_users", "Users that clients of this host watch", census.watched),
        ("partitions_owned", "Partitions that this host owns", census.partitions.len() as u64),
    ] {
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&count)?;
    }
    Ok(())
}

type Figure = fn(&PluginFigures) -> u64;

const PLUGIN_COUNTERS: [(&str, &str, Figure); 5] = [
    ("hook_calls", "Hook calls started", |figures| figures.calls),
    ("hook_delivered", "Events delivered", |figures| figures.delivered),
    ("hook_dead_letters", "Events given up", |figures| figures.dead_letters),
    ("hook_retries", "Calls that were not the first for their event", |figures| figures.retries),
    ("hook_coalesced", "Older transitions that gave way to newer ones", |figures| figures.coalesced),
];

const PLUGIN_GAUGES: [(&str, &str, Figure); 2] = [
    ("hook_queue_depth", "Events waiting", |figures| figures.queue_depth),
    ("hook_running", "Calls running", |figures| figures.running),
];

fn write_plugins(encoder: &mut DescriptorEncoder<'_>, plugins: &[PluginFigures]) -> fmt::Result {
    for (name, help, figure) in PLUGIN_COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for figures in plugins {
            write_count(&mut family.encode_family(&names(figures))?, figure(figures))?;
        }
    }
    for (name, help, figure) in PLUGIN_GAUGES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for figures in plugins {
            family.encode_family(&names(figures))?.encode_gauge(&figure(figures))?;
        }
    }
    let mut failures =
        encoder.encode_descriptor("hook_failures", "Hook calls that failed", None, MetricType::Counter)?;
    for figures in plugins {
        for (kind, count) in &figures.failures {
            let [plugin, hook] = names(figures);
            write_count(&mut failures.encode_family(&[plugin, hook, ("kind", *kind)])?, *count)?;
        }
    }
    let help = "How long hook calls took, in seconds";
    let mut latency = encoder.encode_descriptor("hook_latency_seconds", help, None, MetricType::Histogram)?;
    for figures in plugins {
        let count = figures.latency_buckets.iter().map(|(_, count)| count).sum();
        latency.encode_family(&names(figures))?.encode_histogram::<NoLabelSet>(
            figures.latency_sum,
            count,
            &figures.latency_buckets,
            None,
        )?;
    }
    Ok(())
}

fn names(figures: &PluginFigures) -> [(&'static str, &str); 2] {
    [("plugin", &figures.plugin), ("hook", figures.hook)]
}

#[cfg(test)]
mod tests {
    use presence_core::ids::PartitionId;

    use super::*;
    use crate::gateway::protocol::ErrorCode;
    use crate::gateway::traffic::Refusal;

    #[test]
    fn everything_is_printed_once_with_its_labels() {
        let traffic = Traffic::default();
        traffic.count_accepted();
        traffic.count_refused(Refusal::Unauthorized);
        traffic.count_error(ErrorCode::Forbidden);
        traffic.count_frame_in();
        let census = Census {
            sessions_online: 3,
            sessions_idle: 1,
            users: [2, 1, 7],
            transitions: [5, 4, 3],
            partitions: vec![PartitionId(0), PartitionId(9)],
            watched: 6,
            coalesced: 2,
        };
        let figures = PluginFigures {
            plugin: "webhook".into(),
            hook: "user-online",
            calls: 6,
            delivered: 4,
            failures: vec![("retry", 1), ("trap", 1)],
            latency_buckets: vec![(0.001, 2), (0.01, 3), (f64::INFINITY, 1)],
            latency_sum: 0.5,
            queue_depth: 8,
            ..PluginFigures::default()
        };
        let text = render(Some(&census), &traffic, &[figures]).unwrap();
        for line in [
            "presence_sessions{status=\"idle\"} 1",
            "presence_users{status=\"offline\"} 7",
            "presence_transitions_total{status=\"online\"} 5",
            "presence_partitions_owned 2",
            "presence_watched_users 6",
            "presence_transitions_coalesced_total 2",
            "presence_gateway_sessions_opened_total 1",
            "presence_gateway_connections_refused_total{reason=\"unauthorized\"} 1",
            "presence_gateway_frames_total{direction=\"in\"} 1",
            "presence_gateway_errors_total{code=\"forbidden\"} 1",
            "presence_hook_calls_total{plugin=\"webhook\",hook=\"user-online\"} 6",
            "presence_hook_failures_total{plugin=\"webhook\",hook=\"user-online\",kind=\"trap\"} 1",
            "presence_hook_queue_depth{plugin=\"webhook\",hook=\"user-online\"} 8",
            "presence_hook_latency_seconds_count{plugin=\"webhook\",hook=\"user-online\"} 6",
            "presence_hook_latency_seconds_bucket{le=\"+Inf\",plugin=\"webhook\",hook=\"user-online\"} 6",
        ] {
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn without_a_census_the_rest_is_printed() {
        let text = render(None, &Traffic::default(), &[]).unwrap();
        assert!(!text.contains("presence_sessions{"), "{text}");
        assert!(text.contains("presence_gateway_frames_total{direction=\"out\"} 0"), "{text}");
    }
}
