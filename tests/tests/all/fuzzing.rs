//! Schemathesis against a running daemon: whatever the OpenAPI document allows is answered as it says, and whatever it does not
//! allow is refused.

use std::process::Stdio;

use presence_tests::{Daemon, Plugin, schemathesis};
use tokio::process::Command;

/// The same questions each time; another seed asks others.
const SEED: &str = "20261125";

/// Each operation is asked so often, as far as the time allows.
const EXAMPLES: &str = "20";

/// Refusals that it does not expect. And what can't be said in a schema: that a cursor is one that was given out, that some
/// parameters need others, that a whole number is written without a fraction; of holders, that an incarnation is the one that
/// is registered, that a text is an address, that sessions are named once, how long keys and values are together.
const CONFIG: &str = "\
[checks]
negative_data_rejection.expected-statuses = [400, 404, 405, 413, 415, 422, 431]

[[operations]]
include-operation-id = [\"get_users\", \"drop_dead_letters\", \"replay_dead_letters\", \"set_user_message\", \
\"keep_holder\", \"end_holder\", \"put_held_session\", \"patch_held_session\", \"delete_held_session\", \
\"change_held_sessions\"]
checks.positive_data_acceptance.enabled = false
";

#[tokio::test]
async fn the_api_stands_up_to_its_own_document() {
    let rejecting = Plugin::hostile("hook = \"user-online\", act = \"reject\"");
    let daemon = Daemon::with(rejecting).start().await;
    let _client = daemon.client("alice").await;
    daemon.until_status("alice", "online").await;
    let url = format!("http://{}", daemon.admin());
    let mut command = Command::new(schemathesis());
    let config = daemon.folder().file("schemathesis.toml", CONFIG);
    command.arg("--config-file").arg(config);
    command.args(["run", &format!("{url}/v1/openapi.json"), "--url", &url, "--no-color"]);
    command.args([
        "--seed",
        SEED,
        "--max-examples",
        EXAMPLES,
        "--max-time",
        "40",
        "--phases",
        "examples,coverage,fuzzing",
    ]);
    // It would wait for the end of a stream that has none.
    command.args([
        "--exclude-path",
        "/v1/events",
        "--generation-database",
        "none",
        "--request-timeout",
        "10",
    ]);
    command.current_dir(daemon.folder().path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_secs(100), command.output()).await;
    let output = output.expect("schemathesis ends in time").expect("schemathesis can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("schemathesis with seed {SEED}:\n{said}");
    assert!(output.status.success(), "{}\n{}", said, String::from_utf8_lossy(&output.stderr));
    assert_eq!(daemon.get("/readyz").await.status, 200, "it lives");
}
