//! docs/getting-started.md and docs/migration-from-meteor.md: what stands there works.

use presence_tests::{Client, Daemon, NodeProgram, blocks, shipped_plugin};

const SECRET: &str = "a secret of at least thirty-two bytes";

/// The `[[plugin]]` section in a block of a document, with a file that is there and an address where somebody listens.
fn plugin(block: &str, address: &str, port: &str) -> String {
    let (_, section) = block.split_once("[[plugin]]").expect("a plugin");
    let path = shipped_plugin("webhook");
    let section = section.replace(address, &format!("http://127.0.0.1:{port}"));
    let lines = section.lines().map(|line| match line.starts_with("path = ") {
        true => format!("path = {path:?}"),
        false => line.to_owned(),
    });
    format!("[[plugin]]\n{}\n", lines.collect::<Vec<_>>().join("\n"))
}

#[tokio::test]
async fn the_first_five_minutes() {
    let service = &blocks("getting-started.md", "js")[0];
    let toml = &blocks("getting-started.md", "toml")[0];
    let mut node = NodeProgram::start(&[("service.js", service)]);
    let port = node.until_printed("listening on ").await;
    let section = plugin(toml, "http://127.0.0.1:3000", &port);
    let daemon = Daemon::with(section).presence("offline_grace = \"0s\"").start().await;
    let mut alice = daemon.client("alice").await;
    node.until_printed("alice online").await;
    alice.idle().await;
    node.until_printed("alice idle").await;
    alice.close().await;
    node.until_printed("alice offline").await;
}

/// As much of a Meteor collection as the page needs, and a server around its endpoint.
const METEOR: &str = r#"
import http from "node:http";
import { handle, isGenuine } from "./presence.mjs";
import { presenceToken } from "./token.mjs";

class Collection {
  documents = [];
  static fits(document, query) {
    return Object.entries(query).every(([key, wanted]) => {
      if (key === "$or") return wanted.some((part) => Collection.fits(document, part));
      if (wanted?.$in) return wanted.$in.includes(document[key]);
      if (wanted?.$lt !== undefined) return document[key] < wanted.$lt;
      if (wanted?.$exists === false) return document[key] === undefined;
      return document[key] === wanted;
    });
  }
  change(document, { $set = {}, $unset = {} }) {
    Object.assign(document, $set);
    for (const key of Object.keys($unset)) delete document[key];
  }
  async upsertAsync(query, change) {
    let document = this.documents.find((found) => Collection.fits(found, query));
    if (!document) this.documents.push((document = { ...query }));
    this.change(document, change);
  }
  async updateAsync(query, change) {
    const document = this.documents.find((found) => Collection.fits(found, query));
    if (document) this.change(document, change);
  }
  async removeAsync(query) {
    this.documents = this.documents.filter((found) => !Collection.fits(found, query));
  }
}

const Sessions = new Collection();
const Profiles = new Collection();
Profiles.documents.push({ userId: "alice" }, { userId: "bob" });
// Of a life before.
Sessions.documents.push({ _id: "old", userId: "carol" });

const show = () => {
  const statuses = Profiles.documents.map(({ userId, status }) => `${userId}=${status ?? "none"}`).join(" ");
  const users = Sessions.documents.map(({ userId }) => userId).sort().join(",");
  console.log(`state ${statuses} sessions=${users}`);
};

http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  if (!isGenuine(request.headers, body)) return response.writeHead(401).end();
  await handle(JSON.parse(body), { Sessions, Profiles });
  show();
  response.writeHead(204).end();
}).listen(0, "127.0.0.1", function () {
  console.log("token", presenceToken("alice", process.env.PRESENCE_WEBHOOK_SECRET));
  console.log("port", this.address().port);
});
"#;

#[tokio::test]
async fn a_meteor_application_moves_over() {
    let scripts = blocks("migration-from-meteor.md", "js");
    let token = scripts.iter().find(|script| script.contains("function presenceToken")).unwrap();
    let program = METEOR.replace("process.env.PRESENCE_WEBHOOK_SECRET", &format!("{SECRET:?}"));
    let endpoint = scripts[0].replace("process.env.PRESENCE_WEBHOOK_SECRET", &format!("{SECRET:?}"));
    let mut node =
        NodeProgram::start(&[("app.mjs", &program), ("presence.mjs", &endpoint), ("token.mjs", token)]);
    let token = node.until_printed("token ").await;
    let port = node.until_printed("port ").await;

    let toml = &blocks("migration-from-meteor.md", "toml")[0];
    let section = plugin(toml, "https://app.example", &port).replace("${PRESENCE_WEBHOOK_SECRET}", SECRET);
    let auth = format!(
        "[auth]\nmode = \"jwt\"\naudience = \"presence\"\n[[auth.key]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\""
    );
    let daemon = Daemon::with(auth).section(section).presence("offline_grace = \"0s\"").start().await;
    // A fresh start: the session of a life before is gone.
    node.until_printed("state alice=none bob=none sessions=").await;
    let offered = format!("presence.v1, bearer.{token}");
    let headers = [("sec-websocket-protocol", offered.as_str())];
    let mut alice = Client::open(daemon.clients(), "alice", "/v1/connect", &headers).await.unwrap();
    node.until_printed("state alice=online bob=none sessions=alice").await;
    alice.idle().await;
    node.until_printed("state alice=idle bob=none sessions=alice").await;
    alice.close().await;
    node.until_printed("state alice=none bob=none sessions=").await;
}

#[tokio::test]
async fn an_endpoint_takes_nothing_that_is_signed_by_somebody_else() {
    let endpoint = &blocks("migration-from-meteor.md", "js")[0];
    let endpoint = endpoint.replace("process.env.PRESENCE_WEBHOOK_SECRET", &format!("{SECRET:?}"));
    let program = r#"
import { createHmac } from "node:crypto";
import { isGenuine } from "./presence.mjs";
const now = Math.floor(Date.now() / 1000);
const signed = (secret, at, body) => ({
  "webhook-id": "1", "webhook-timestamp": String(at),
  "webhook-signature": "v1," + createHmac("sha256", secret).update(`1.${at}.${body}`).digest("base64"),
});
const right = signed(SECRET, now, "{}");
console.log("verdicts", isGenuine(right, "{}"), isGenuine(right, "{ }"), isGenuine({}, "{}"),
  isGenuine(signed("x" + SECRET, now, "{}"), "{}"), isGenuine(signed(SECRET, now - 3600, "{}"), "{}"));
"#;
    let program = program.replace("SECRET", &format!("{SECRET:?}"));
    let mut node = NodeProgram::start(&[("app.mjs", &program), ("presence.mjs", &endpoint)]);
    assert_eq!(node.until_printed("verdicts ").await, "true false false false false");
}
