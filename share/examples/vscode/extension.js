// @ts-check
'use strict';

// Kheish for Visual Studio Code. daemon.js speaks with the daemon; nothing else is needed, and nothing is built.

const vscode = require('vscode');
const fs = require('node:fs/promises');
const os = require('node:os');
const path = require('node:path');
const { randomUUID } = require('node:crypto');
const { Daemon } = require('./daemon.js');

// What hides, moves the cursor or turns the direction of a text; it is written out.
const HIDDEN = new RegExp(
  '[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb' +
    '\\u{e0000}-\\u{e007f}]',
  'gu',
);

/** What others wrote, as text that does nothing. @param {string} text */
function inert(text) {
  const escape = (/** @type {string} */ c) => `\\u${(c.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}`;
  return text.replaceAll('\r\n', '\n').replace(HIDDEN, escape);
}

/** The same for a place where VS Code draws `$(icons)` and `[links](command:...)`. @param {string} text */
function label(text) {
  return inert(text).replace(/\s+/g, ' ').replaceAll('$(', '\\$(').replaceAll('](', '] (');
}

/** @param {unknown} error */
function complain(error) {
  vscode.window.showErrorMessage(`Kheish: ${label(error instanceof Error ? error.message : String(error))}`);
}

/** A session in an output channel. `live` is what the model says just now, until the record of it takes its place. */
class Transcript {
  /** @param {vscode.OutputChannel} channel */
  constructor(channel) {
    this.channel = channel;
    this.text = '';
    this.live = '';
  }

  /** @param {string} live @param {string} [block] */
  show(live, block = '') {
    const before = this.text + this.live;
    this.text += block && `${inert(block).replace(/\n+$/, '')}\n`;
    this.live = live;
    const after = this.text + live;
    if (after.startsWith(before)) this.channel.append(after.slice(before.length));
    else this.channel.replace(after);
  }

  /** @param {{event: string, data: string}} frame */
  take({ event, data }) {
    if (event === 'cut') this.show('');
    if (event === 'record') for (const fact of JSON.parse(data).events) this.tell(fact);
    if (event === 'delta') {
      const delta = JSON.parse(data);
      if (delta.kind === 'text') this.show(this.live + inert(delta.text));
    }
  }

  /** @param {any} fact */
  tell(fact) {
    switch (fact.type) {
      case 'run.submitted':
      case 'input.steered':
        return this.show(this.live, `> ${fact.text}`);
      case 'model_call.completed': {
        const said = fact.text ? [fact.text] : [];
        for (const call of fact.tool_requests ?? []) said.push(`* ${call.tool} ${JSON.stringify(call.arguments)}`);
        return this.show('', said.join('\n'));
      }
      case 'model_call.retrying':
      case 'model_call.died':
        return this.show('');
      case 'tool_call.completed':
        return fact.is_error && this.show(this.live, `! ${fact.output}`);
      case 'approval.requested':
      case 'question.requested':
        return this.show(this.live, '? it waits for you: Kheish: Decide What Waits');
      case 'run.completed':
      case 'run.failed':
      case 'run.cancelled':
      case 'run.interrupted':
        return this.show(this.live, `-- ${fact.type.replace('.', ' ')} ${fact.message ?? ''}`.trimEnd());
    }
  }
}

/**
 * What a person has to see before deciding, whole. Each line that others wrote stands behind a bar, so that none can
 * pass for one of ours.
 * @param {any} request
 */
function describe(request) {
  const lines = [`${request.digest ? request.kind.replace('_', ' ') : 'question'}, session ${request.session_id}`];
  const quote = (/** @type {string} */ text) => lines.push(...inert(text).split('\n').map((line) => `    | ${line}`));
  if (request.digest) quote(request.tool);
  for (const [name, value] of Object.entries(request.input ?? {})) {
    quote(`${name}: ${typeof value === 'string' ? value : JSON.stringify(value, null, 2)}`);
  }
  for (const item of request.questions ?? []) {
    quote(item.question);
    for (const option of item.options) {
      lines.push(`  ${option.id}`);
      quote(`${option.label}\n${option.description}`.trim());
    }
  }
  if (request.digest) {
    lines.push('  in');
    quote(request.cwd);
    lines.push(`  digest ${request.digest}`);
  }
  return lines.join('\n');
}

class Kheish {
  /** @param {vscode.ExtensionContext} context */
  constructor(context) {
    const settings = vscode.workspace.getConfiguration('kheish');
    this.daemon = new Daemon(settings.get('command', 'kheish'), complain);
    this.status = vscode.window.createStatusBarItem(vscode.StatusBarAlignment.Left);
    this.status.command = 'kheish.decide';
    /** @type {Map<string, Transcript>} by session */
    this.transcripts = new Map();
    /** @type {Map<string, string>} what was shown, by path of its document */
    this.shown = new Map();
    this.isWatching = false;
    this.counts = 0;
    const documents = { provideTextDocumentContent: (/** @type {vscode.Uri} */ uri) => this.shown.get(uri.path) ?? '' };
    context.subscriptions.push(
      this.status,
      { dispose: () => this.daemon.close() },
      vscode.workspace.registerTextDocumentContentProvider('kheish', documents),
    );
    for (const name of /** @type {const} */ (['submit', 'show', 'decide', 'interrupt'])) {
      const command = () => this[name]().catch(complain);
      context.subscriptions.push(vscode.commands.registerCommand(`kheish.${name}`, command));
    }
    // What waits is shown from the start where a daemon runs; none is started for it.
    this.daemon.run(['daemon', 'status', '--json']).then((out) => JSON.parse(out).pid && this.start()).catch(() => {});
  }

  /** The directory whose session is meant. */
  folder() {
    const editor = vscode.window.activeTextEditor;
    const folder = editor && vscode.workspace.getWorkspaceFolder(editor.document.uri);
    const found = folder ?? vscode.workspace.workspaceFolders?.[0];
    if (!found) throw new Error('open a folder first: a session belongs to a directory');
    return found.uri.fsPath;
  }

  async start() {
    await this.daemon.start();
    if (this.isWatching) return;
    this.isWatching = true;
    this.daemon.follow('/v1/events/stream', 'tail', ({ event, data }) => {
      const isOurs = event === 'record' && /"type":"(approval|question)\./.test(data);
      if (event === 'cut') this.status.hide();
      if (event === 'sync' || isOurs) this.count().catch(complain);
    });
  }

  async count() {
    const thisCount = ++this.counts;
    const { approvals, questions } = await this.daemon.ask('GET', '/v1/inbox');
    // Of several answers the one that was asked for last counts.
    if (thisCount !== this.counts) return;
    const waiting = approvals.length + questions.length;
    this.status.text = waiting ? `$(bell-dot) Kheish: ${waiting}` : '$(bell) Kheish';
    this.status.tooltip = `${waiting} waiting for you`;
    this.status.show();
  }

  /** The session of a folder, at work or not. @param {string} cwd */
  async session(cwd) {
    await this.start();
    return JSON.parse(await this.daemon.run(['wait', '--timeout', '0', '--json'], { cwd }));
  }

  /** Follows a session, from 200 records ago on. @param {any} session */
  attach({ session_id, seq }) {
    let transcript = this.transcripts.get(session_id);
    if (!transcript) {
      const opened = new Transcript(vscode.window.createOutputChannel(`Kheish ${session_id}`));
      this.transcripts.set(session_id, (transcript = opened));
      const from = Math.max(0, seq - 200);
      this.daemon.follow(`/v1/sessions/${session_id}/stream`, `${from}`, (frame) => opened.take(frame));
    }
    transcript.channel.show(true);
  }

  async show() {
    this.attach(await this.session(this.folder()));
  }

  async submit() {
    const cwd = this.folder();
    const editor = vscode.window.activeTextEditor;
    const selected = editor?.document.getText(editor.selection) ?? '';
    const prompt = selected ? 'What to do with the selection' : 'What to do';
    const text = await vscode.window.showInputBox({ prompt, ignoreFocusOut: true });
    if (!text) return;
    const options = vscode.workspace.getConfiguration('kheish').get('options', /** @type {string[]} */ ([]));
    const args = ['run', '--detach', '--json', '--key', randomUUID(), ...options];
    const directory = await fs.mkdtemp(path.join(os.tmpdir(), 'kheish-'));
    try {
      if (selected) {
        const file = path.join(directory, path.basename(editor?.document.fileName ?? 'selection'));
        await fs.writeFile(file, selected);
        args.push('--attach', file);
      }
      await this.start();
      const run = JSON.parse(await this.daemon.run([...args, '-'], { cwd, input: text }));
      this.attach(await this.daemon.ask('GET', `/v1/sessions/${run.session_id}`));
    } finally {
      await fs.rm(directory, { recursive: true });
    }
  }

  async interrupt() {
    const { session_id } = await this.session(this.folder());
    const { interrupted } = await this.daemon.ask('POST', `/v1/sessions/${session_id}/interrupt`, {});
    vscode.window.showInformationMessage(interrupted ? 'Kheish: interrupted' : 'Kheish: nothing is at work');
  }

  async decide() {
    await this.start();
    const inbox = await this.daemon.ask('GET', '/v1/inbox');
    const items = [...inbox.approvals, ...inbox.questions].map((request) => ({
      label: request.digest ? label(request.tool) : 'question',
      description: request.session_id,
      detail: label(request.digest ? JSON.stringify(request.input) : request.questions[0].question),
      request,
    }));
    const picked = await vscode.window.showQuickPick(items, { placeHolder: items.length ? 'Which?' : 'Nothing waits' });
    if (!picked) return;
    const { request } = picked;
    // A document of its own for each, which never changes: what is decided is what is shown.
    const uri = vscode.Uri.from({ scheme: 'kheish', path: `/${request.request_id}/${request.digest ?? ''}.txt` });
    this.shown.set(uri.path, describe(request));
    await vscode.window.showTextDocument(await vscode.workspace.openTextDocument(uri), { preview: true });
    const body = request.digest ? await this.resolution(request) : await this.answers(request);
    if (!body) return;
    const noun = request.digest ? 'approvals' : 'questions';
    const run = await this.daemon.ask('POST', `/v1/${noun}/${request.request_id}`, body);
    vscode.window.showInformationMessage(`Kheish: the run is ${run.status.replaceAll('_', ' ')}`);
  }

  /** @param {any} request */
  async resolution(request) {
    const placeHolder = 'Decide about what the editor shows';
    const resolution = await vscode.window.showQuickPick(request.choices, { placeHolder, ignoreFocusOut: true });
    if (!resolution) return undefined;
    const why = resolution === 'deny' && (await vscode.window.showInputBox({ prompt: 'Why? The model is told.' }));
    return { resolution, if_digest: request.digest, justification: why || '' };
  }

  /** @param {any} request */
  async answers(request) {
    const answers = [];
    for (const item of request.questions) {
      /** @type {{label: string, description?: string, id?: string}[]} */
      const options = item.options.map((/** @type {any} */ option) => {
        return { label: label(option.label), description: label(option.description), id: option.id };
      });
      const placeHolder = label(item.question);
      /** @type {typeof options | undefined} */
      let picked = [];
      if (options.length && item.multi_select) {
        picked = await vscode.window.showQuickPick(options, { placeHolder, canPickMany: true, ignoreFocusOut: true });
      } else if (options.length) {
        const all = [...options, { label: 'In your own words ...' }];
        const one = await vscode.window.showQuickPick(all, { placeHolder, ignoreFocusOut: true });
        picked = one && [one];
      }
      if (!picked) return undefined;
      const ids = picked.flatMap((option) => option.id ?? []);
      const text = ids.length ? '' : await vscode.window.showInputBox({ prompt: 'Your answer', ignoreFocusOut: true });
      if (!ids.length && !text) return undefined;
      answers.push({ question_id: item.id, selected_option_ids: ids, freeform_answer: text });
    }
    return { answers };
  }
}

/** @param {vscode.ExtensionContext} context */
function activate(context) {
  new Kheish(context);
}

module.exports = { activate };
