// A small chat server as there are many: its users' connections are its own (lines over TCP), and it had its own notion of
// who is there. What it took to move that to Presence is the class `Presence` and the three calls of it below.
//
// Usage: node chat.mjs <admin url of a host> <name of this holder>. Prints the port that it listens on.
import net from "node:net";
import { randomUUID } from "node:crypto";

class Presence {
  constructor(url, holder, lease = 5) {
    this.holder = `${url}/v1/holders/${holder}`;
    this.lease = lease;
    this.open = new Map(); // what is reported of each session
    this.last = new Map(); // one request of a session after the other
  }

  async start() {
    await this.live();
    setInterval(() => this.renew().catch((error) => console.error(`renewal: ${error}`)), this.lease * 333);
  }

  // Begins an incarnation, and reports whoever is there, under new ids.
  async live() {
    this.incarnation = randomUUID();
    await this.ask("PUT", this.holder, { incarnation: this.incarnation, lease_seconds: this.lease });
    for (const session of this.open.keys()) this.of(session, "PUT", "", this.open.get(session));
  }

  async renew() {
    const body = { incarnation: this.incarnation, lease_seconds: this.lease };
    const status = await this.ask("PUT", this.holder, body, [409, 410]);
    if (status !== 200) await this.live(); // It was over, or nothing was known of it any more.
  }

  put(session, user, facts) {
    this.open.set(session, { user, ...facts });
    return this.of(session, "PUT", "", this.open.get(session));
  }

  patch(session, user, facts) {
    Object.assign(this.open.get(session), facts);
    return this.of(session, "PATCH", "", { user, ...facts });
  }

  end(session, user, reason) {
    this.open.delete(session);
    return this.of(session, "DELETE", `&user=${encodeURIComponent(user)}&reason=${reason}`).finally(() => this.last.delete(session));
  }

  of(session, method, query, body) {
    const asked = (this.last.get(session) ?? Promise.resolve())
      .catch(() => {})
      .then(() => {
        const id = `${this.incarnation}.${session}`;
        return this.ask(method, `${this.holder}/sessions/${id}?incarnation=${this.incarnation}${query}`, body);
      });
    this.last.set(session, asked);
    asked.catch((error) => console.error(`${method} of a session: ${error}`));
    return asked;
  }

  async ask(method, url, body, expected = []) {
    const headers = body ? { "content-type": "application/json" } : {};
    const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    if (!answer.ok && !expected.includes(answer.status)) throw new Error(`${answer.status} ${text}`);
    return answer.status;
  }
}

const [url, name] = process.argv.slice(2);
const presence = new Presence(url, name);
const rooms = new Set();

const server = net.createServer((socket) => {
  const session = randomUUID();
  let user;
  let text = "";
  socket.setEncoding("utf8");
  socket.on("data", (part) => {
    text += part;
    for (let at; (at = text.indexOf("\n")) >= 0; text = text.slice(at + 1)) {
      const [verb, ...rest] = text.slice(0, at).trim().split(" ");
      if (verb === "hello" && !user) {
        user = rest.join(" ");
        rooms.add(socket);
        const facts = { remote_address: socket.remoteAddress, user_agent: "chat", metadata: { device: "terminal" } };
        presence.put(session, user, facts).then(() => socket.write("welcome\n"), () => socket.destroy());
      } else if (user && (verb === "away" || verb === "back")) {
        presence.patch(session, user, { status: verb === "away" ? "idle" : "online" });
      } else if (user && verb === "say") {
        for (const other of rooms) other.write(`${user}: ${rest.join(" ")}\n`);
      }
    }
  });
  socket.on("error", () => {});
  socket.on("close", () => {
    rooms.delete(socket);
    if (user) presence.end(session, user, "closed").catch(() => {});
  });
});

await presence.start();
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
