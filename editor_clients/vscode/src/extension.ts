/** Joins the parts to VS Code: its commands, and when the server is started. */

import * as vscode from 'vscode';
import { Installation } from './installation';
import { showMenu } from './menu';
import { chooseModel } from './models';
import { Serving } from './serving';
import { isOn, isServed, servedLanguages, toggleLanguage } from './settings';
import { Status } from './status';

const DECLINED = 'isInstallationDeclined';
const EXAMPLE = `"""The weather of a week."""

# The temperatures of seven days.

# Their mean.

# Print the mean.
`;

let serving: Serving | undefined;

export function activate(context: vscode.ExtensionContext): void {
  const log = vscode.window.createOutputChannel('CodeGen', { log: true });
  const status = new Status();
  const installation = new Installation(context, log);
  serving = new Serving(installation, status, log, () => void offerServer(context));
  context.subscriptions.push(log, status, serving);
  addCommands(context, { installation, serving, status, log });
  followSettings(context, serving);
  startWithFirstDocument(context, serving);
  void offerUpdate(installation);
}

export function deactivate(): Promise<void> | undefined {
  return serving?.stop();
}

interface Parts {
  installation: Installation;
  serving: Serving;
  status: Status;
  log: vscode.LogOutputChannel;
}

function addCommands(context: vscode.ExtensionContext, parts: Parts): void {
  const { installation, serving, status, log } = parts;
  const execute = vscode.commands.executeCommand;
  const works: Record<string, () => unknown> = {
    'codegen.menu': () => showMenu(status),
    'codegen.installServer': async () => {
      // A program that runs cannot be replaced everywhere.
      await serving.stop();
      status.show({ kind: 'starting', message: 'the server is being installed', model: '' });
      try {
        await installation.install();
      } finally {
        await serving.restart();
      }
    },
    'codegen.restart': () => serving.restart(),
    'codegen.showLog': () => log.show(),
    'codegen.chooseModel': () => chooseModel(installation),
    'codegen.toggleLanguage': () => {
      const editor = vscode.window.activeTextEditor;
      return editor && toggleLanguage(editor.document.languageId);
    },
    'codegen.openExample': async () => {
      const example = { language: 'python', content: EXAMPLE };
      await vscode.window.showTextDocument(await vscode.workspace.openTextDocument(example));
    },
    'codegen.showSettings': () =>
      execute('workbench.action.openSettings', `@ext:${context.extension.id}`),
    'codegen.showWalkthrough': () =>
      execute('workbench.action.openWalkthrough', `${context.extension.id}#start`),
  };
  for (const [name, work] of Object.entries(works)) {
    const command = async (): Promise<void> => {
      try {
        await work();
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        log.error(reason);
        void vscode.window.showErrorMessage(`CodeGen: ${reason}.`);
      }
    };
    context.subscriptions.push(vscode.commands.registerCommand(name, command));
  }
}

function followSettings(context: vscode.ExtensionContext, serving: Serving): void {
  let languages = followLanguages();
  const change = vscode.workspace.onDidChangeConfiguration((event) => {
    const before = languages;
    languages = followLanguages();
    if (event.affectsConfiguration('codegen.server.path') || `${before}` !== `${languages}`) {
      void serving.restartIfStarted();
    }
  });
  context.subscriptions.push(change);
}

/** Tells menus where turns can be written; returns the languages that the server is told of. */
function followLanguages(): string[] {
  const served = servedLanguages();
  const on = served.filter(isOn);
  void vscode.commands.executeCommand('setContext', 'codegen.languagesOn', on);
  return served;
}

/** A window without a file to complete needs no server. */
function startWithFirstDocument(context: vscode.ExtensionContext, serving: Serving): void {
  const look = (document: vscode.TextDocument): void => {
    if (isServed(document)) {
      void serving.startOnce();
    }
  };
  vscode.workspace.textDocuments.forEach(look);
  context.subscriptions.push(vscode.workspace.onDidOpenTextDocument(look));
}

async function offerServer(context: vscode.ExtensionContext): Promise<void> {
  if (context.globalState.get(DECLINED)) {
    return;
  }
  const offer =
    'CodeGen needs its language server. This extension carries it and can install it into a ' +
    'folder of its own; Python 3.11 or newer has to be there.';
  const answer = await vscode.window.showWarningMessage(offer, 'Install the Server', 'Not Now');
  if (answer === 'Install the Server') {
    await vscode.commands.executeCommand('codegen.installServer');
  } else if (answer === 'Not Now') {
    // The item in the status bar goes on to say it.
    await context.globalState.update(DECLINED, true);
  }
}

async function offerUpdate(installation: Installation): Promise<void> {
  if (await installation.isOutdated()) {
    const offer = 'The CodeGen server that is installed is not the one of this extension.';
    const answer = await vscode.window.showInformationMessage(offer, 'Install the Server');
    if (answer) {
      await vscode.commands.executeCommand('codegen.installServer');
    }
  }
}
