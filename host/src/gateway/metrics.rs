//! `/metrics`: plain numbers in, OpenMetrics text out. Counts nothing itself.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::admin::reload::ReloadFigures;
use super::traffic::Traffic;
use crate::driver::Census;
use crate::plugins::PluginSet;
use crate::plugins::metrics::{HookMetrics, PluginMetrics};

mod process;

/// Where the figures of the plugins come from.
pub trait Metrics: Send + Sync + 'static {
    /// One for each plugin.
    fn plugins(&self) -> Vec<PluginMetrics>;

    /// So many spans were not sent; none: nothing is traced.
    fn traces_dropped(&self) -> Option<u64> {
        None
    }
}

impl Metrics for PluginSet {
    fn plugins(&self) -> Vec<PluginMetrics> {
        self.metrics()
    }

    fn traces_dropped(&self) -> Option<u64> {
        self.tracer().dropped()
    }
}

/// The text for Prometheus. Without a census what it would tell is left out.
pub(super) fn render(
    census: Option<&Census>,
    traffic: &Traffic,
    plugins: &[PluginMetrics],
    reloads: ReloadFigures,
    traces_dropped: Option<u64>,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("presence");
    let [frames_in, frames_out] = traffic.frames();
    let [keys_read, keys_not_read] = traffic.key_readings();
    let [certificates_read, certificates_not_read] = traffic.certificate_readings();
    registry.register_collector(Box::new(Figures {
        census: census.cloned(),
        accepted: traffic.accepted(),
        refused: traffic.refused().map(|(reason, count)| (reason.as_str(), count)).collect(),
        frames: vec![("in", frames_in), ("out", frames_out)],
        cut: traffic.cut().map(|(reason, count)| (reason.as_str(), count)).collect(),
        api_refused: traffic.api_refused().map(|(reason, count)| (reason.as_str(), count)).collect(),
        errors: traffic.errors().map(|(code, count)| (code.as_str(), count)).collect(),
        event_streams: traffic.event_streams(),
        tokens_renewed: traffic.tokens_renewed(),
        key_readings: [("read", keys_read), ("failed", keys_not_read)],
        certificate_readings: [("read", certificates_read), ("failed", certificates_not_read)],
        plugins: plugins.to_vec(),
        reloads,
        traces_dropped,
    }));
    let mut system = Registry::default();
    system.register_collector(Box::new(process::Process));
    let mut text = String::new();
    encode_registry(&mut text, &registry)?;
    encode_registry(&mut text, &system)?;
    encode_eof(&mut text)?;
    Ok(text)
}

#[derive(Debug)]
struct Figures {
    census: Option<Census>,
    accepted: u64,
    refused: Vec<(&'static str, u64)>,
    cut: Vec<(&'static str, u64)>,
    api_refused: Vec<(&'static str, u64)>,
    frames: Vec<(&'static str, u64)>,
    errors: Vec<(&'static str, u64)>,
    event_streams: [u64; 3],
    tokens_renewed: u64,
    key_readings: [(&'static str, u64); 2],
    certificate_readings: [(&'static str, u64); 2],
    plugins: Vec<PluginMetrics>,
    reloads: ReloadFigures,
    traces_dropped: Option<u64>,
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
        let help = "Connections that were cut for what came over them, or did not";
        labelled(&mut encoder, "gateway_connections_cut", help, "reason", &self.cut)?;
        let help = "Requests to the admin listener that were refused for their key";
        labelled(&mut encoder, "gateway_api_requests_refused", help, "reason", &self.api_refused)?;
        labelled(&mut encoder, "gateway_frames", "WebSocket frames of clients", "direction", &self.frames)?;
        labelled(&mut encoder, "gateway_errors", "Errors told to clients", "code", &self.errors)?;
        let help = "Sessions that went on with a fresh token";
        let mut renewed =
            encoder.encode_descriptor("gateway_tokens_renewed", help, None, MetricType::Counter)?;
        write_count(&mut renewed, self.tokens_renewed)?;
        write_event_streams(&mut encoder, self.event_streams)?;
        let help = "Readings of the set of keys for tokens";
        labelled(&mut encoder, "gateway_key_readings", help, "result", &self.key_readings)?;
        let help = "Certificates whose files have changed and were read again";
        labelled(&mut encoder, "gateway_certificate_readings", help, "result", &self.certificate_readings)?;
        write_reloads(&mut encoder, self.reloads)?;
        if let Some(dropped) = self.traces_dropped {
            let help = "Spans that were not sent: no room, or a collector that is away";
            let mut counter = encoder.encode_descriptor("traces_dropped", help, None, MetricType::Counter)?;
            write_count(&mut counter, dropped)?;
        }
        write_plugins(&mut encoder, &self.plugins)
    }
}

fn write_event_streams(encoder: &mut DescriptorEncoder<'_>, [open, cut, resets]: [u64; 3]) -> fmt::Result {
    let help = "Streams of /v1/events that are open";
    encoder.encode_descriptor("event_streams", help, None, MetricType::Gauge)?.encode_gauge(&open)?;
    let help = "Streams of /v1/events cut off because their reader was too slow";
    write_count(&mut encoder.encode_descriptor("event_streams_cut", help, None, MetricType::Counter)?, cut)?;
    let help = "Readers of /v1/events told that transitions may have been missed";
    write_count(
        &mut encoder.encode_descriptor("event_stream_resets", help, None, MetricType::Counter)?,
        resets,
    )
}

fn write_reloads(encoder: &mut DescriptorEncoder<'_>, reloads: ReloadFigures) -> fmt::Result {
    let counts = [("applied", reloads.applied), ("refused", reloads.refused)];
    labelled(encoder, "reloads", "Reloads of presence.toml and the plugins", "result", &counts)?;
    let seconds = reloads.took.as_secs_f64();
    let help = "How long the last reload that was applied took, in seconds";
    encoder.encode_descriptor("reload_seconds", help, None, MetricType::Gauge)?.encode_gauge(&seconds)?;
    let help = "When the last reload was applied, in seconds since 1970; 0: none was";
    let mut last = encoder.encode_descriptor("reload_last_applied", help, None, MetricType::Gauge)?;
    last.encode_gauge(&reloads.last_applied)
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
    let letters = &census.letters;
    let outcomes = [
        ("delivered", letters.delivered),
        ("superseded", letters.superseded),
        ("given_up", letters.given_up),
        ("kept", letters.kept),
    ];
    let help = "Dead letters replayed by this host, by what became of them";
    labelled(encoder, "dead_letter_replays", help, "outcome", &outcomes)?;
    let mut dropped = encoder.encode_descriptor(
        "dead_letters_dropped",
        "Dead letters dropped",
        None,
        MetricType::Counter,
    )?;
    write_count(&mut dropped, letters.dropped)?;
    for (name, help, figure) in CENSUS_COUNTERS {
        let mut counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        write_count(&mut counter, figure(census))?;
    }
    for (name, help, count) in [
        (
            "instances_suspect",
            "Instances whose lease ran out and whom nobody has judged yet",
            census.membership.suspects,
        ),
        (
            "instances_with_other_plugins",
            "Living instances that run other plugins than this one",
            census.membership.other_plugins,
        ),
        ("cleanups_running", "Cleanups after dead instances under way here", census.membership.cleaning),
        ("store_away", "1 while the own lease is not confirmed", u64::from(census.away)),
        ("watched_users", "Users that clients of this host watch", census.watched),
        ("partitions_owned", "Partitions that this host owns", census.partitions.len() as u64),
        ("holders", "Holders that live", census.membership.holders),
        ("held_sessions", "Sessions of holders, of the users that this host owns", census.held_sessions),
        ("held_changes_waiting", "Changes of held sessions that wait for the store", census.holders.waiting),
    ] {
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&count)?;
    }
    let help = "The store's clock minus that of this machine, in milliseconds; beyond 1000 either way the host is not ready";
    let mut offset = encoder.encode_descriptor("clock_offset_milliseconds", help, None, MetricType::Gauge)?;
    offset.encode_gauge(&census.clock_offset_ms)
}

type OfCensus = fn(&Census) -> u64;

const CENSUS_COUNTERS: [(&str, &str, OfCensus); 19] = [
    ("lease_renewals", "Renewals of the own lease that came back", |census| census.membership.renewals),
    ("lease_lapses", "How often the own lease ran out", |census| census.membership.lapses),
    ("partitions_claimed", "Claims of partitions that were written", |census| census.membership.claims),
    ("partitions_handed_over", "Partitions handed over", |census| census.membership.handovers),
    ("fencing_refusals", "Writes that a newer claim refused", |census| census.membership.fenced),
    ("instances_suspected", "How often an instance became a suspect", |census| census.membership.suspected),
    ("instances_judged", "Attempts to declare an instance dead", |census| census.membership.judged),
    ("instances_cleaned_up", "Cleanups after dead instances that ended here", |census| {
        census.membership.cleaned
    }),
    ("cleanup_milliseconds", "How long these cleanups took together", |census| {
        census.cleanup_time.as_millis() as u64
    }),
    ("rebirths", "How often this host was declared dead and came back", |census| census.membership.rebirths),
    ("fresh_starts", "Fresh starts that this host declared", |census| census.membership.fresh_starts),
    ("store_recreated", "How often the store was found recreated", |census| census.membership.wipes),
    ("watcher_gaps", "How often updates of the store were missed", |census| census.gaps),
    ("partition_reads", "Snapshots of partitions that were read", |census| census.reads),
    ("holders_registered", "Holders registered by this host", |census| census.holders.registered),
    ("holder_renewals", "Leases of holders renewed by this host", |census| census.holders.renewed),
    ("held_changes", "Changes of held sessions that were done", |census| census.holders.changed),
    ("held_changes_rejected", "Changes of held sessions that were not done", |census| {
        census.holders.rejected
    }),
    ("held_conflicts", "Writes for holders that met another writer, or had no answer", |census| {
        census.holders.conflicts
    }),
];

type OfHook = fn(&HookMetrics) -> u64;
type OfPlugin = fn(&PluginMetrics) -> u64;

const HOOK_COUNTERS: [(&str, &str, OfHook); 5] = [
    ("hook_calls", "Hook calls that have ended", |hook| hook.calls),
    ("hook_delivered", "Hook calls that delivered", |hook| hook.delivered),
    ("hook_retries", "Attempts that were put off to be repeated", |hook| hook.retries),
    ("hook_coalesced", "Older transitions that gave way to newer ones", |hook| hook.coalesced),
    ("hook_dead_letters", "Events given up", |hook| hook.dead_letters),
];

const PLUGIN_COUNTERS: [(&str, &str, OfPlugin); 9] = [
    ("plugin_dead_letters_lost", "Dead letters that could only be logged", |plugin| plugin.dead_letters_lost),
    ("plugin_dead_letters_dropped", "Older dead letters that made room", |plugin| {
        plugin.dead_letters_dropped
    }),
    ("plugin_overflowed", "Events that found the queue full", |plugin| plugin.overflowed),
    ("plugin_session_hooks_dropped", "Session events of an instance declared dead, dropped", |plugin| {
        plugin.session_hooks_dropped
    }),
    ("plugin_withdrawn", "Transitions left to the next owner of their partition", |plugin| plugin.withdrawn),
    ("plugin_unwanted", "Events of hooks that a new version of the plugin lacks", |plugin| plugin.unwanted),
    ("plugin_breaker_opened", "How often the breaker opened", |plugin| plugin.breaker_opened),
    ("plugin_guests_started", "Guests instantiated", |plugin| plugin.guests_started),
    ("plugin_log_bytes_cut", "Bytes of log text beyond limits.log", |plugin| plugin.log_bytes_cut),
];

const PLUGIN_GAUGES: [(&str, &str, OfPlugin); 9] = [
    ("plugin_generation", "1 as it was loaded first, one more with every reload", |plugin| plugin.generation),
    ("plugin_guests", "Guests that are instantiated", |plugin| plugin.guests as u64),
    ("plugin_memory_peak_bytes", "The most memory that one guest has held", |plugin| plugin.memory_peak),
    ("plugin_queue_depth", "Events waiting for their turn", |plugin| plugin.queued as u64),
    ("plugin_backing_off", "Events waiting to be repeated", |plugin| plugin.backing_off as u64),
    ("plugin_withheld", "Events waiting until this host may act for the cluster", |plugin| {
        plugin.withheld as u64
    }),
    ("plugin_running", "Calls under way", |plugin| plugin.running as u64),
    ("plugin_breaker_open", "1 while the plugin is left alone", |plugin| u64::from(plugin.breaker_open)),
    ("plugin_behind_everything", "1 while a cleanup of everything holds all else back", |plugin| {
        u64::from(plugin.behind_everything)
    }),
];

fn write_plugins(encoder: &mut DescriptorEncoder<'_>, plugins: &[PluginMetrics]) -> fmt::Result {
    for (name, help, figure) in PLUGIN_COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for plugin in plugins {
            write_count(&mut family.encode_family(&[("plugin", &*plugin.plugin)])?, figure(plugin))?;
        }
    }
    for (name, help, figure) in PLUGIN_GAUGES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for plugin in plugins {
            family.encode_family(&[("plugin", &*plugin.plugin)])?.encode_gauge(&figure(plugin))?;
        }
    }
    write_states(encoder, plugins)?;
    let help = "From a reload to the end of the first call of the new version, in seconds";
    let mut pauses =
        encoder.encode_descriptor("plugin_reload_pause_seconds", help, None, MetricType::Histogram)?;
    for plugin in plugins {
        let buckets = &plugin.reload_pauses.buckets;
        let count = buckets.iter().map(|(_, count)| count).sum();
        let labels = [("plugin", &*plugin.plugin)];
        let mut family = pauses.encode_family(&labels)?;
        family.encode_histogram::<NoLabelSet>(plugin.reload_pauses.sum_seconds, count, buckets, None)?;
    }
    let hooks: Vec<(&PluginMetrics, &HookMetrics)> =
        plugins.iter().flat_map(|plugin| plugin.hooks.iter().map(move |hook| (plugin, hook))).collect();
    write_hooks(encoder, &hooks)
}

/// What is no plain number of a plugin.
fn write_states(encoder: &mut DescriptorEncoder<'_>, plugins: &[PluginMetrics]) -> fmt::Result {
    let help = "How long the oldest event that is not done with has waited, in seconds";
    let mut lag = encoder.encode_descriptor("plugin_lag_seconds", help, None, MetricType::Gauge)?;
    for plugin in plugins {
        lag.encode_family(&[("plugin", &*plugin.plugin)])?.encode_gauge(&plugin.lag.as_secs_f64())?;
    }
    let help = "Always 1: the SHA-256 of the plugin's file and the version of the contract that it speaks";
    let mut info = encoder.encode_descriptor("plugin_info", help, None, MetricType::Gauge)?;
    for plugin in plugins {
        let labels =
            [("plugin", &*plugin.plugin), ("digest", plugin.digest.as_str()), ("version", plugin.version)];
        info.encode_family(&labels)?.encode_gauge(&1_u64)?;
    }
    Ok(())
}

fn write_hooks(encoder: &mut DescriptorEncoder<'_>, hooks: &[(&PluginMetrics, &HookMetrics)]) -> fmt::Result {
    let names = |plugin: &PluginMetrics, hook: &HookMetrics| {
        [("plugin", plugin.plugin.to_string()), ("hook", hook.hook.as_str().to_owned())]
    };
    for (name, help, figure) in HOOK_COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (plugin, hook) in hooks {
            write_count(&mut family.encode_family(&names(plugin, hook))?, figure(hook))?;
        }
    }
    let mut failures =
        encoder.encode_descriptor("hook_failures", "Hook calls that failed", None, MetricType::Counter)?;
    for (plugin, hook) in hooks {
        for (kind, count) in &hook.failures {
            let [plugin, hook] = names(plugin, hook);
            let labels = [plugin, hook, ("kind", kind.as_str().to_owned())];
            write_count(&mut failures.encode_family(&labels)?, *count)?;
        }
    }
    let help = "How long hook calls took, in seconds";
    let mut latency = encoder.encode_descriptor("hook_latency_seconds", help, None, MetricType::Histogram)?;
    for (plugin, hook) in hooks {
        let buckets = &hook.latency.buckets;
        let count = buckets.iter().map(|(_, count)| count).sum();
        let names = names(plugin, hook);
        let mut family = latency.encode_family(&names)?;
        family.encode_histogram::<NoLabelSet>(hook.latency.sum_seconds, count, buckets, None)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use presence_core::events::Hook;
    use presence_core::ids::PartitionId;
    use presence_core::membership::MembershipCounters;

    use super::*;
    use crate::gateway::protocol::ErrorCode;
    use crate::gateway::traffic::Refusal;
    use crate::plugins::metrics::{FailureKind, Histogram};

    pub(in crate::gateway) fn webhook() -> PluginMetrics {
        let kinds = FailureKind::ALL;
        let hook = HookMetrics {
            hook: Hook::UserOnline,
            calls: 6,
            delivered: 4,
            failures: [(kinds[0], 1), (kinds[1], 0), (kinds[2], 1), (kinds[3], 0), (kinds[4], 2)],
            retries: 1,
            coalesced: 2,
            dead_letters: 3,
            latency: Histogram { buckets: vec![(0.001, 2), (0.01, 3), (f64::INFINITY, 1)], sum_seconds: 0.5 },
        };
        PluginMetrics {
            plugin: "webhook".into(),
            digest: "9f86d081".repeat(8),
            version: "0.1.0",
            hooks: vec![hook],
            generation: 3,
            reload_pauses: Histogram { buckets: vec![(0.001, 1), (f64::INFINITY, 1)], sum_seconds: 0.1 },
            last_reload_pause: None,
            overflowed: 0,
            session_hooks_dropped: 4,
            withdrawn: 5,
            unwanted: 6,
            breaker_opened: 1,
            dead_letters_lost: 0,
            dead_letters_dropped: 0,
            guests_started: 8,
            memory_peak: 1_114_112,
            log_bytes_cut: 0,
            guests: 2,
            queued: 8,
            backing_off: 1,
            withheld: 3,
            running: 2,
            breaker_open: true,
            behind_everything: false,
            lag: Duration::from_millis(2500),
        }
    }

    /// docs/metrics.md has one row for each metric, as `/metrics` tells of it.
    #[test]
    fn every_metric_is_documented_and_no_other() {
        let reloads = ReloadFigures::default();
        let text =
            render(Some(&Census::default()), &Traffic::default(), &[webhook()], reloads, Some(0)).unwrap();
        let mut rows = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            let kind = lines[at + 1].rsplit(' ').next().unwrap_or_default();
            let sample = lines[at + 2];
            assert!(sample.starts_with(name), "no example of {name}: {sample}");
            let labels = sample.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
            let names =
                labels.map_or("", |(labels, _)| labels).split(',').filter_map(|pair| pair.split_once('='));
            let names = names.map(|(name, _)| name).filter(|name| *name != "le");
            let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
            let total = if kind == "counter" { "_total" } else { "" };
            let help = help.trim_end_matches('.');
            rows.push_str(&format!("| `{name}{total}` | {kind} | {} | {help} |\n", names.join(" ")));
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let documented = std::fs::read_to_string(path).unwrap();
        assert!(documented.contains(&rows), "the table of docs/metrics.md must be this:\n\n{rows}");
        let count = |text: &str| text.matches("\n| `presence_").count();
        assert_eq!(count(&documented), count(&rows), "one table, one row for each metric");
    }

    #[test]
    fn everything_is_printed_once_with_its_labels() {
        let traffic = Traffic::default();
        traffic.count_accepted();
        traffic.count_refused(Refusal::Unauthorized);
        traffic.count_error(ErrorCode::Forbidden);
        traffic.count_token_renewed();
        traffic.count_key_reading(true);
        traffic.count_frame_in();
        let census = Census {
            sessions_online: 3,
            sessions_idle: 1,
            users: [2, 1, 7],
            transitions: [5, 4, 3],
            partitions: vec![PartitionId(0), PartitionId(9)],
            watched: 6,
            coalesced: 2,
            clock_offset_ms: -3_600_000,
            membership: MembershipCounters { other_plugins: 1, ..Default::default() },
            ..Census::default()
        };
        let figures = webhook();
        let took = Duration::from_millis(1500);
        let reloads = ReloadFigures { applied: 2, refused: 1, last_applied: 1_764_000_000, took };
        let text = render(Some(&census), &traffic, &[figures], reloads, Some(6)).unwrap();
        for line in [
            "presence_sessions{status=\"idle\"} 1",
            "presence_users{status=\"offline\"} 7",
            "presence_transitions_total{status=\"online\"} 5",
            "presence_partitions_owned 2",
            "presence_watched_users 6",
            "presence_instances_with_other_plugins 1",
            "presence_clock_offset_milliseconds -3600000",
            "presence_traces_dropped_total 6",
            "presence_transitions_coalesced_total 2",
            "presence_gateway_sessions_opened_total 1",
            "presence_gateway_connections_refused_total{reason=\"unauthorized\"} 1",
            "presence_gateway_frames_total{direction=\"in\"} 1",
            "presence_gateway_errors_total{code=\"forbidden\"} 1",
            "presence_gateway_tokens_renewed_total 1",
            "presence_gateway_key_readings_total{result=\"read\"} 1",
            "presence_gateway_key_readings_total{result=\"failed\"} 0",
            "presence_hook_calls_total{plugin=\"webhook\",hook=\"user-online\"} 6",
            "presence_hook_failures_total{plugin=\"webhook\",hook=\"user-online\",kind=\"trap\"} 1",
            "presence_hook_failures_total{plugin=\"webhook\",hook=\"user-online\",kind=\"cut\"} 2",
            "presence_plugin_session_hooks_dropped_total{plugin=\"webhook\"} 4",
            "presence_plugin_withdrawn_total{plugin=\"webhook\"} 5",
            "presence_plugin_unwanted_total{plugin=\"webhook\"} 6",
            "presence_plugin_generation{plugin=\"webhook\"} 3",
            "presence_plugin_reload_pause_seconds_count{plugin=\"webhook\"} 2",
            "presence_reloads_total{result=\"refused\"} 1",
            "presence_reload_seconds 1.5",
            "presence_reload_last_applied 1764000000",
            "presence_plugin_withheld{plugin=\"webhook\"} 3",
            "presence_plugin_queue_depth{plugin=\"webhook\"} 8",
            "presence_plugin_lag_seconds{plugin=\"webhook\"} 2.5",
            "presence_plugin_guests{plugin=\"webhook\"} 2",
            "presence_plugin_memory_peak_bytes{plugin=\"webhook\"} 1114112",
            "presence_hook_retries_total{plugin=\"webhook\",hook=\"user-online\"} 1",
            "presence_hook_coalesced_total{plugin=\"webhook\",hook=\"user-online\"} 2",
            "presence_hook_dead_letters_total{plugin=\"webhook\",hook=\"user-online\"} 3",
            "presence_plugin_breaker_open{plugin=\"webhook\"} 1",
            "presence_hook_latency_seconds_count{plugin=\"webhook\",hook=\"user-online\"} 6",
            "presence_hook_latency_seconds_bucket{le=\"+Inf\",plugin=\"webhook\",hook=\"user-online\"} 6",
        ] {
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn without_a_census_the_rest_is_printed() {
        let text = render(None, &Traffic::default(), &[], ReloadFigures::default(), None).unwrap();
        assert!(!text.contains("presence_sessions{"), "{text}");
        assert!(text.contains("presence_gateway_frames_total{direction=\"out\"} 0"), "{text}");
    }
}
