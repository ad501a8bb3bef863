/** Shows the server's work: what can be cancelled as a notification, the rest in the status bar. */

import * as vscode from 'vscode';
import type {
  ProgressToken,
  WorkDoneProgressBegin,
  WorkDoneProgressEnd,
  WorkDoneProgressReport,
} from 'vscode-languageclient';

interface Shown {
  report: (message: string) => void;
  end: () => void;
}

export class ShownProgress {
  private readonly shown = new Map<ProgressToken, Shown>();

  constructor(private readonly cancel: (token: ProgressToken) => void) {}

  take(
    token: ProgressToken,
    value: WorkDoneProgressBegin | WorkDoneProgressReport | WorkDoneProgressEnd,
  ): void {
    if (value.kind === 'begin') {
      this.begin(token, value);
    } else if (value.kind === 'report') {
      this.shown.get(token)?.report(text(value));
    } else {
      this.end(token);
    }
  }

  /** Ends what a server that is gone will not end. */
  endAll(): void {
    for (const token of [...this.shown.keys()]) {
      this.end(token);
    }
  }

  private begin(token: ProgressToken, value: WorkDoneProgressBegin): void {
    const cancellable = value.cancellable ?? false;
    // The status bar shows no percentage of its own and has no button.
    const location = cancellable
      ? vscode.ProgressLocation.Notification
      : vscode.ProgressLocation.Window;
    const title = `CodeGen: ${value.title}`;
    void vscode.window.withProgress({ location, title, cancellable }, (progress, cancelled) => {
      cancelled.onCancellationRequested(() => this.cancel(token));
      return new Promise<void>((end) => {
        this.shown.set(token, { report: (message) => progress.report({ message }), end });
      });
    });
  }

  private end(token: ProgressToken): void {
    this.shown.get(token)?.end();
    this.shown.delete(token);
  }
}

function text({ message, percentage }: WorkDoneProgressReport): string {
  return message ?? (percentage === undefined ? '' : `${percentage} %`);
}
