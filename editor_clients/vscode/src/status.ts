/** The item in the status bar: what the server does, and whether this file is completed. */

import * as vscode from 'vscode';
import { isOn } from './settings';

export interface State {
  kind: 'missing' | 'starting' | 'loading' | 'ready' | 'thinking' | 'off' | 'failed';
  message: string;
  model: string;
}

const ICONS: Record<State['kind'], string> = {
  missing: '$(warning)',
  starting: '$(loading~spin)',
  loading: '$(loading~spin)',
  ready: '$(comment)',
  thinking: '$(sync~spin)',
  off: '$(debug-pause)',
  failed: '$(error)',
};

const BACKGROUNDS: Partial<Record<State['kind'], string>> = {
  missing: 'statusBarItem.warningBackground',
  failed: 'statusBarItem.errorBackground',
};

export class Status implements vscode.Disposable {
  private readonly item: vscode.StatusBarItem;
  private state: State = { kind: 'off', message: 'no file is open yet', model: '' };
  private readonly subscriptions: vscode.Disposable[];

  constructor() {
    this.item = vscode.window.createStatusBarItem('status', vscode.StatusBarAlignment.Right, 100);
    this.item.name = 'CodeGen';
    this.item.command = 'codegen.menu';
    this.subscriptions = [
      this.item,
      vscode.window.onDidChangeActiveTextEditor(() => this.draw()),
      vscode.workspace.onDidChangeConfiguration((event) => {
        if (event.affectsConfiguration('codegen.languages')) {
          this.draw();
        }
      }),
    ];
    this.draw();
  }

  /** What was shown last. */
  get now(): State {
    return this.state;
  }

  show(state: State): void {
    this.state = state;
    this.draw();
  }

  dispose(): void {
    vscode.Disposable.from(...this.subscriptions).dispose();
  }

  private draw(): void {
    const { kind, message, model } = this.state;
    const languageId = vscode.window.activeTextEditor?.document.languageId;
    const isOff = languageId !== undefined && !isOn(languageId);
    this.item.text = `${isOff ? '$(circle-slash)' : ICONS[kind]} CodeGen`;
    const about = [kind, model, message, isOff ? `off for ${languageId}` : ''];
    const label = `CodeGen: ${about.filter(Boolean).join(', ')}`;
    this.item.tooltip = label;
    this.item.accessibilityInformation = { label };
    const background = isOff ? undefined : BACKGROUNDS[kind];
    this.item.backgroundColor = background ? new vscode.ThemeColor(background) : undefined;
    this.item.show();
  }
}
