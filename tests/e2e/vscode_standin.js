'use strict';

// Stands in for Visual Studio Code: loads the extension named on the command line with a `vscode` module that does what
// the extension asks of it. A line of JSON in, [method, argument], one out: what the method gave.

const Module = require('node:module');
const path = require('node:path');
const readline = require('node:readline');

const { extension, folder, options } = JSON.parse(process.argv[2]);
const commands = new Map();
const providers = new Map();
const messages = [];
const channels = [];
const status = {
  text: '',
  isVisible: false,
  show: () => (status.isVisible = true),
  hide: () => (status.isVisible = false),
};
let document = '';
let selected = '';
let prompt = null;

/** A prompt stays open until the test answers it. */
function ask(kind, items, given) {
  return new Promise((answer) => {
    prompt = { kind, items, given, answer };
  });
}

const labels = ({ items }) => items.map((item) => item.label ?? item);
const drawn = ({ items, given }) =>
  [...items, given].flatMap((i) => [i.label, i.description, i.detail, i.placeHolder, i.prompt]).filter(Boolean);

const uri = (fsPath) => ({ scheme: 'file', path: fsPath, fsPath });
const workspaceFolder = { uri: uri(folder) };
const vscode = {
  StatusBarAlignment: { Left: 1 },
  Uri: { from: (parts) => parts },
  commands: {
    registerCommand(name, run) {
      commands.set(name, run);
      return { dispose() {} };
    },
  },
  window: {
    get activeTextEditor() {
      const fileName = path.join(folder, 'a.py');
      return { selection: {}, document: { uri: uri(fileName), fileName, getText: () => selected } };
    },
    createOutputChannel() {
      const channel = { text: '', show() {}, append: (t) => (channel.text += t), replace: (t) => (channel.text = t) };
      channels.push(channel);
      return channel;
    },
    createStatusBarItem: () => Object.assign(status, { dispose() {} }),
    showErrorMessage: (text) => void messages.push(`error: ${text}`),
    showInformationMessage: (text) => void messages.push(text),
    showInputBox: (given) => ask('input', [], given),
    showQuickPick: (items, given) => ask('pick', items, given),
    showTextDocument: (shown) => void (document = shown),
  },
  workspace: {
    workspaceFolders: [workspaceFolder],
    getWorkspaceFolder: () => workspaceFolder,
    getConfiguration: () => ({ get: (name, otherwise) => (name === 'options' ? options : otherwise) }),
    openTextDocument: async (which) => providers.get(which.scheme).provideTextDocumentContent(which),
    registerTextDocumentContentProvider(scheme, provider) {
      providers.set(scheme, provider);
      return { dispose() {} };
    },
  },
};

const load = Module._load;
Module._load = (name, ...more) => (name === 'vscode' ? vscode : load(name, ...more));
process.on('unhandledRejection', (error) => messages.push(`unhandled: ${error.stack}`));

const context = { subscriptions: [] };
require(extension).activate(context);

const methods = {
  run: (name) => void commands.get(name)(),
  select: (text) => void (selected = text),
  state: () => ({
    messages,
    document,
    transcript: channels.map((channel) => channel.text).join(''),
    status: status.isVisible ? status.text : '',
    prompt: prompt && { kind: prompt.kind, labels: labels(prompt), drawn: drawn(prompt) },
  }),
  /** The position of an item, or a text. */
  answer(value) {
    const open = prompt;
    prompt = null;
    open.answer(typeof value === 'number' ? open.items[value] : value);
  },
};

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const [method, argument] = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(methods[method](argument) ?? null)}\n`);
}).on('close', () => {
  for (const subscription of context.subscriptions) subscription.dispose();
  process.exit(0);
});
