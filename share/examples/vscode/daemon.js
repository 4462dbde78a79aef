// @ts-check
'use strict';

// The daemon, from node: the `kheish` command where something has to be found or started, HTTP and server-sent events
// over its Unix socket for the rest. No dependencies, no build.

const { spawn } = require('node:child_process');
const { randomUUID } = require('node:crypto');
const http = require('node:http');
const { setTimeout: sleep } = require('node:timers/promises');

/** @typedef {{event: string, data: string, id?: string}} Frame */

/** What the daemon refused, with its status. */
class Problem extends Error {
  /** @param {string} detail @param {number} status */
  constructor(detail, status) {
    super(detail);
    this.status = status;
  }
}

class Daemon {
  /** @param {string} command @param {(error: unknown) => void} complain told when a stream cannot go on */
  constructor(command, complain) {
    this.command = command;
    this.complain = complain;
    this.socket = '';
    this.isClosed = false;
    /** @type {Set<http.ClientRequest>} */
    this.open = new Set();
    /** @type {(() => void)[]} streams that gave up until a daemon is there again */
    this.parked = [];
  }

  close() {
    this.isClosed = true;
    for (const request of this.open) request.destroy();
  }

  /**
   * Runs `kheish` and gives its standard output, or throws what it said.
   * @param {string[]} args @param {{cwd?: string, input?: string}} [options] @returns {Promise<string>}
   */
  run(args, { cwd = '/', input = '' } = {}) {
    return new Promise((resolve, reject) => {
      const child = spawn(this.command, args, { cwd });
      let [out, err] = ['', ''];
      child.stdout.setEncoding('utf8').on('data', (part) => (out += part));
      child.stderr.setEncoding('utf8').on('data', (part) => (err += part));
      child.on('error', (error) => reject(new Error(`cannot run ${this.command}: ${error.message}`)));
      child.on('close', (status) => {
        if (status === 0 || out) resolve(out);
        else reject(new Error(err.replace(/^kheish: /, '')));
      });
      child.stdin.on('error', () => {}).end(input);
    });
  }

  /** Returns when a daemon runs. */
  async start() {
    this.socket = JSON.parse(await this.run(['daemon', 'start', '--json'])).socket;
    for (const resume of this.parked.splice(0)) resume();
  }

  /**
   * @param {string} method @param {string} path @param {unknown} [body] @param {string} [key]
   * @returns {Promise<http.IncomingMessage>}
   */
  send(method, path, body, key) {
    return new Promise((resolve, reject) => {
      /** @type {http.OutgoingHttpHeaders} */
      const headers = { 'Kheish-Origin': 'vscode', 'Content-Type': 'application/json' };
      if (key) headers['Idempotency-Key'] = key;
      const request = http.request({ socketPath: this.socket, method, path, headers, agent: false }, resolve);
      this.open.add(request);
      // A heartbeat comes every 15 s: what is silent for longer than three is dead.
      request.setTimeout(45_000, () => request.destroy(new Error('the daemon does not answer')));
      request.on('error', reject).on('close', () => this.open.delete(request));
      request.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  /**
   * Asks, and gives the answer. Where the daemon died it is started and asked again: under one key a command counts
   * once.
   * @param {string} method @param {string} path @param {unknown} [body] @returns {Promise<any>}
   */
  async ask(method, path, body) {
    const key = randomUUID();
    try {
      return await read(await this.send(method, path, body, key));
    } catch (error) {
      if (error instanceof Problem) throw error;
      await this.start();
      return read(await this.send(method, path, body, key));
    }
  }

  /**
   * Follows a stream: every record once, across cuts and restarts; `onFrame` is also told of each `cut`.
   * @param {string} path @param {string} cursor @param {(frame: Frame) => void} onFrame
   */
  async follow(path, cursor, onFrame) {
    let saidBye = false;
    for (let pauseMs = 50; !this.isClosed; pauseMs = Math.min(pauseMs * 2, 5_000)) {
      try {
        for await (const frame of frames(await this.send('GET', `${path}?cursor=${cursor}`))) {
          [pauseMs, saidBye, cursor] = [50, frame.event === 'bye', frame.id ?? cursor];
          onFrame(frame);
        }
      } catch (error) {
        if (error instanceof Problem && error.status !== 503) return this.complain(error);
      }
      onFrame({ event: 'cut', data: '' });
      await sleep(pauseMs);
      // Without a `bye` the daemon died: it is started again, for it owes us its runs. After one it is waited for.
      if (!saidBye && !this.isClosed) await this.start().catch((error) => this.park(error));
    }
  }

  /** @param {unknown} error */
  park(error) {
    this.complain(error);
    return /** @type {Promise<void>} */ (new Promise((resolve) => this.parked.push(resolve)));
  }
}

/** @param {http.IncomingMessage} response @returns {Promise<any>} */
async function read(response) {
  let text = '';
  for await (const part of response.setEncoding('utf8')) text += part;
  const answer = JSON.parse(text);
  if ((response.statusCode ?? 500) >= 400) throw new Problem(answer.detail, answer.status);
  return answer;
}

/**
 * Source: the HTML standard, server-sent events.
 * @param {http.IncomingMessage} response @returns {AsyncGenerator<Frame>}
 */
async function* frames(response) {
  if (response.statusCode !== 200) await read(response);
  let data = '';
  for await (const part of response.setEncoding('utf8')) {
    const blocks = (data + part).split('\n\n');
    data = blocks.pop() ?? '';
    for (const block of blocks) {
      const fields = block.split('\n').map((line) => /^(\w+): ?(.*)$/.exec(line)?.slice(1) ?? []);
      yield /** @type {Frame} */ (Object.fromEntries(fields));
    }
  }
}

module.exports = { Daemon };
