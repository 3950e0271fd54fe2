// chat-notifier: tells a chat who has come online, as a message to an incoming webhook (Slack, Mattermost, Discord's
// /slack address and others take `{"text": "…"}`).
//
// config: { url, text = "{user} is online", users = [] }. With `users`, only of these is told. Whoever returns from
// idle was never away: nothing is told of it. 408, 425, 429, 5xx and network errors are tried again, other answers make
// the event a dead letter.

import { log } from 'presence:plugin/log@0.1.0';

let config;

function retry(message, afterMs) {
  return { tag: 'retry', val: { message, afterMs } };
}

export const configure = {
  configure(json) {
    const { url, text = '{user} is online', users = [], ...unknown } = JSON.parse(json);
    const [stranger] = Object.keys(unknown);
    if (stranger !== undefined) throw `config.${stranger}: is not a key; there are url, text, users`;
    if (!/^https?:\/\//.test(url ?? '')) throw 'config.url: an http or https URL is needed';
    if (typeof text !== 'string') throw 'config.text: a text is needed';
    if (!Array.isArray(users)) throw 'config.users: a list of users is needed';
    config = { url, text, users: new Set(users) };
  },
};

export const userOnline = {
  async handle(ctx, event) {
    if (event.previous === 'idle') return;
    if (config.users.size > 0 && !config.users.has(event.user)) return;
    const headers = { 'content-type': 'application/json', 'idempotency-key': ctx.eventId };
    const body = JSON.stringify({ text: config.text.replaceAll('{user}', () => event.user) });
    let answer;
    try {
      answer = await fetch(config.url, { method: 'POST', headers, body });
    } catch (error) {
      throw retry(`the chat does not answer: ${error}`);
    }
    if (answer.ok) {
      log('debug', 'told the chat', [['user', event.user]]);
      return;
    }
    // The address of an incoming webhook is a secret: it is in no message.
    const text = `the chat answers ${answer.status}`;
    if (answer.status < 500 && ![408, 425, 429].includes(answer.status)) throw { tag: 'reject', val: text };
    const seconds = Number(answer.headers.get('retry-after'));
    throw retry(text, seconds > 0 ? Math.min(seconds * 1000, 4294967295) : undefined);
  },
};
