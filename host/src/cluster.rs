//! `presence instances` and `presence partitions`: who lives and who owns what, as a host's admin API knows it.

use std::io::Write;

use crate::admin_client::AdminClient;
use crate::cli::AdminArgument;
use crate::gateway::admin::cluster::{
    InstanceDocument, InstancesDocument, PartitionDocument, PartitionsDocument,
};
use crate::table::{printable, table};

/// Prints the instances, as a table or as JSON. Answers the exit code.
pub async fn instances(admin: &AdminArgument, json: bool) -> anyhow::Result<u8> {
    let found: InstancesDocument = AdminClient::new(admin)?.get("/v1/instances").await?;
    print(if json { serde_json::to_string_pretty(&found)? + "\n" } else { instance_table(&found.instances) })
}

/// Prints the partitions, as a table or as JSON. Answers the exit code.
pub async fn partitions(admin: &AdminArgument, json: bool) -> anyhow::Result<u8> {
    let found: PartitionsDocument = AdminClient::new(admin)?.get("/v1/partitions").await?;
    print(if json {
        serde_json::to_string_pretty(&found)? + "\n"
    } else {
        partition_table(&found.partitions)
    })
}

fn print(text: String) -> anyhow::Result<u8> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

fn instance_table(instances: &[InstanceDocument]) -> String {
    let rows: Vec<Vec<String>> = instances
        .iter()
        .map(|instance| {
            let state = serde_json::to_value(instance.state).ok();
            let state = state.as_ref().and_then(serde_json::Value::as_str).unwrap_or("?").to_owned();
            let cleanup = serde_json::to_value(instance.cleanup).ok();
            let cleanup = cleanup.as_ref().and_then(serde_json::Value::as_str).unwrap_or("-").to_owned();
            vec![
                printable(&instance.host),
                instance.instance.clone(),
                match (&instance.incarnation, instance.suspect) {
                    // A holder takes part in nothing.
                    (Some(_), false) if state == "joining" => "holder".to_owned(),
                    (Some(_), true) => "holder (suspect)".to_owned(),
                    (None, true) => format!("{state} (suspect)"),
                    _ => state,
                },
                printable(&instance.started_at),
                format!("{:.1} s ago", instance.renewed_ms_ago as f64 / 1000.0),
                cleanup,
                if instance.own { "asked" } else { "" }.to_owned(),
            ]
        })
        .collect();
    table(&["HOST", "INSTANCE", "STATE", "STARTED", "RENEWED", "CLEANUP", ""], &rows)
}

fn partition_table(partitions: &[PartitionDocument]) -> String {
    let rows: Vec<Vec<String>> = partitions
        .iter()
        .map(|partition| {
            let users = partition.users.map(|users| (users.online, users.idle, users.offline));
            let count = |which: fn((u64, u64, u64)) -> u64| {
                users.map_or("-".to_owned(), |users| which(users).to_string())
            };
            vec![
                partition.partition.to_string(),
                partition.host.as_deref().map_or("-".to_owned(), printable),
                partition.owner.clone().unwrap_or_else(|| "nobody".to_owned()),
                count(|(online, _, _)| online),
                count(|(_, idle, _)| idle),
                count(|(_, _, offline)| offline),
            ]
        })
        .collect();
    table(&["PARTITION", "HOST", "OWNER", "ONLINE", "IDLE", "OFFLINE"], &rows)
}

#[cfg(test)]
mod tests {
    use presence_core::documents::{CleanupPhase, InstanceState};

    use super::*;
    use crate::gateway::admin::cluster::UserCounts;

    #[test]
    fn an_instance_is_one_line() {
        let instance = InstanceDocument {
            instance: "0192f0c0-0000-7000-8000-000000000000".into(),
            host: "host-1".into(),
            state: InstanceState::Dead,
            suspect: false,
            started_at: "2026-11-24T16:00:00.123Z".into(),
            renewed_ms_ago: 6_250,
            cleanup: Some(CleanupPhase::Telling),
            own: false,
            incarnation: None,
        };
        let expected = "HOST    INSTANCE                              STATE  STARTED                   RENEWED    CLEANUP  \n\
                        host-1  0192f0c0-0000-7000-8000-000000000000  dead   2026-11-24T16:00:00.123Z  6.2 s ago  telling  \n";
        let trimmed = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(trimmed(&instance_table(&[instance])), trimmed(expected));
    }

    #[test]
    fn a_partition_tells_its_users_only_to_its_owner() {
        let owned = PartitionDocument {
            partition: 7,
            owner: Some("a".into()),
            host: Some("host-1".into()),
            users: Some(UserCounts { online: 3, idle: 2, offline: 1 }),
        };
        let free = PartitionDocument { partition: 8, owner: None, host: None, users: None };
        let expected = "PARTITION  HOST    OWNER   ONLINE  IDLE  OFFLINE\n\
                        7          host-1  a       3       2     1\n\
                        8          -       nobody  -       -     -\n";
        assert_eq!(partition_table(&[owned, free]), expected);
    }
}
