// {{name}}: remembers when it last saw a user, and tells a server who has left.
//
// Every event may come more than once, and several guests of this plugin run side by side: what has to last is in
// keyvalue, and doing a step twice does no harm. The contract is in wit/deps; its u64 are BigInt here.

import { log } from 'presence:plugin/log@{{contract}}';
import { get, set } from 'presence:plugin/keyvalue@{{contract}}';

let url;

/** The host tries again; for a status hook and cleanup as long as it takes. */
function retry(message, afterMs) {
  return { tag: 'retry', val: { message, afterMs } };
}

/** Never again: the event becomes a dead letter. */
function reject(message) {
  return { tag: 'reject', val: message };
}

/** Gets `config` of presence.toml as JSON. A text that is thrown refuses it. */
export const configure = {
  configure(json) {
    const config = JSON.parse(json);
    if (!/^https?:\/\//.test(config.url ?? '')) throw 'config.url: an http or https URL is needed';
    url = config.url;
  },
};

export const userOnline = {
  handle(ctx, event) {
    const before = keyvalue(() => get('seen', event.user));
    log('info', before === undefined ? 'is new' : 'is back', [['user', event.user]]);
    keyvalue(() => set('seen', event.user, new TextEncoder().encode(String(event.since))));
  },
};

export const userOffline = {
  async handle(ctx, event) {
    const left = {
      user: event.user,
      since: new Date(Number(event.since)).toISOString(),
      revision: Number(event.revision),
    };
    const headers = { 'content-type': 'application/json', 'idempotency-key': ctx.eventId };
    let answer;
    try {
      answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(left) });
    } catch (error) {
      throw retry(`POST ${url}: ${error}`);
    }
    if (answer.ok) return;
    const text = `POST ${url}: answer ${answer.status}`;
    const again = answer.status >= 500 || [408, 425, 429].includes(answer.status);
    const seconds = Number(answer.headers.get('retry-after'));
    throw again ? retry(text, seconds > 0 ? seconds * 1000 : undefined) : reject(text);
  },
};

/** What keyvalue can't do now is tried again. */
function keyvalue(step) {
  try {
    return step();
  } catch (error) {
    throw retry(`keyvalue: ${error.payload?.tag ?? error}: ${error.payload?.val ?? ''}`);
  }
}
