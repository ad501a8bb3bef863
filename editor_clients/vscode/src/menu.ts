/** The menu behind the item in the status bar. */

import * as vscode from 'vscode';
import { isOn } from './settings';
import type { Status } from './status';

export async function showMenu(status: Status): Promise<void> {
  const editor = vscode.window.activeTextEditor;
  const languageId = editor?.document.languageId;
  const entries: [string, string][] = [];
  if (status.now.kind === 'missing') {
    entries.push(['$(cloud-download) Install the server', 'codegen.installServer']);
  }
  if (languageId !== undefined) {
    const [icon, onOrOff] = isOn(languageId) ? ['$(circle-slash)', 'off'] : ['$(check)', 'on'];
    entries.push([`${icon} Turn ${onOrOff} for ${languageId}`, 'codegen.toggleLanguage']);
    entries.push(['$(question) Why no suggestion?', 'codegen.whyNoSuggestion']);
  }
  const model = status.now.model ? ` (now ${status.now.model})` : '';
  entries.push(
    [`$(server) Choose the model${model}`, 'codegen.chooseModel'],
    ['$(debug-restart) Restart the server', 'codegen.restart'],
    ['$(output) Show the log', 'codegen.showLog'],
    ['$(settings-gear) Settings', 'codegen.showSettings'],
    ['$(book) First steps', 'codegen.showWalkthrough'],
  );
  const items = entries.map(([label, command]) => ({ label, command }));
  const chosen = await vscode.window.showQuickPick(items, { title: 'CodeGen' });
  if (chosen) {
    await vscode.commands.executeCommand(chosen.command);
  }
}
