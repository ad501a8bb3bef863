/** Runs the server: starts it, passes on what it says, and starts it again when it crashes. */

import * as readline from 'node:readline';
import * as vscode from 'vscode';
import {
  CloseAction,
  DidChangeConfigurationNotification,
  ErrorAction,
  LanguageClient,
  type LanguageClientOptions,
  type Middleware,
  RevealOutputChannelOn,
  WorkDoneProgressCancelNotification,
} from 'vscode-languageclient/node';
import type { Installation, Server } from './installation';
import { ShownProgress } from './progress';
import { documentSelector, forServer } from './settings';
import type { State, Status } from './status';

/** After so many crashes within so long a person is asked. */
const CRASHES = 3;
const WITHIN_MS = 5 * 60_000;
/** The first wait before the server is started again; each one after it is four times longer. */
const BACK_OFF_MS = 500;

/** A client whose own complaints are in the log; what a person has to know, we say. */
class Client extends LanguageClient {
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

export class Serving implements vscode.Disposable {
  private client: Client | undefined;
  private isStarted = false;
  private nStarts = 0;
  private crashes: number[] = [];
  private waiting: NodeJS.Timeout | undefined;

  /** `onMissing` is called where there is no server to start. */
  constructor(
    private readonly installation: Installation,
    private readonly status: Status,
    private readonly log: vscode.LogOutputChannel,
    private readonly onMissing: () => void,
  ) {}

  async startOnce(): Promise<void> {
    if (!this.isStarted) {
      await this.restart();
    }
  }

  async restartIfStarted(): Promise<void> {
    if (this.isStarted) {
      await this.restart();
    }
  }

  /** Starts the server anew, whatever became of it before. */
  async restart(): Promise<void> {
    this.isStarted = true;
    this.crashes = [];
    await this.stop();
    await this.start();
  }

  async stop(): Promise<void> {
    const client = this.client;
    this.client = undefined;
    this.nStarts++;
    clearTimeout(this.waiting);
    setServing(false);
    // One that is just starting is ended too, though the client calls that an error.
    await client?.stop().catch((error: unknown) => this.log.info(String(error)));
  }

  dispose(): void {
    void this.stop();
  }

  private async start(): Promise<void> {
    const start = ++this.nStarts;
    this.status.show({ kind: 'starting', message: '', model: '' });
    let server: Server | undefined;
    try {
      server = await this.installation.find();
    } catch (error) {
      this.fail(error instanceof Error ? error.message : String(error), {
        'Open the Settings': 'codegen.showSettings',
      });
      return;
    }
    if (start !== this.nStarts) {
      return;
    }
    if (server) {
      this.run(server);
    } else {
      this.status.show({ kind: 'missing', message: 'the server is not installed', model: '' });
      this.onMissing();
    }
  }

  private run(server: Server): void {
    const executable = {
      command: server.command,
      args: [...server.args, 'serve'],
      options: { cwd: this.installation.folder },
    };
    this.log.info(`starting ${[executable.command, ...executable.args].join(' ')}`);
    const progress = new ShownProgress((token) => {
      void client.sendNotification(WorkDoneProgressCancelNotification.type, { token });
    });
    const ended = (): void => {
      progress.endAll();
      this.takeEnd(client);
    };
    const options: LanguageClientOptions = {
      documentSelector: documentSelector(),
      outputChannel: this.log,
      revealOutputChannelOn: RevealOutputChannelOn.Never,
      // The other stream is the protocol's.
      stdioOptions: { stdout: () => undefined, stderr: (input) => this.logLines(input) },
      middleware: middleware(() => client, progress),
      initializationFailedHandler: () => false,
      errorHandler: {
        error: () => ({ action: ErrorAction.Continue, handled: true }),
        closed: () => {
          ended();
          return { action: CloseAction.DoNotRestart, handled: true, message: 'the server ended' };
        },
      },
    };
    const client = new Client('codegen', 'CodeGen', executable, options);
    this.client = client;
    client.onNotification('codegen/status', ({ state, message, model }: ServerStatus) => {
      if (this.client === client) {
        this.status.show({ kind: state, message, model });
      }
    });
    client.start().then(() => {
      if (this.client === client) {
        setServing(true);
        // It asks too, but does not wait for long, and a busy editor answers late.
        void tellSettings(client);
      }
    }, ended);
  }

  /** Starts a server again that ended by itself; after some crashes a person is asked. */
  private takeEnd(client: Client): void {
    if (this.client !== client) {
      return;
    }
    this.client = undefined;
    setServing(false);
    const now = Date.now();
    this.crashes = [...this.crashes.filter((then) => now - then < WITHIN_MS), now];
    const nCrashes = this.crashes.length;
    if (nCrashes >= CRASHES) {
      this.fail(`the server ended ${nCrashes} times in a row and is not started again`, {
        'Show the Log': 'codegen.showLog',
        'Restart the Server': 'codegen.restart',
      });
      return;
    }
    this.status.show({ kind: 'starting', message: 'it ended and is started again', model: '' });
    const wait = BACK_OFF_MS * 4 ** (nCrashes - 1);
    this.waiting = setTimeout(() => void this.start(), wait);
  }

  private fail(reason: string, cures: Record<string, string>): void {
    this.log.error(reason);
    this.status.show({ kind: 'failed', message: reason, model: '' });
    const shown = vscode.window.showErrorMessage(`CodeGen: ${reason}.`, ...Object.keys(cures));
    void shown.then((cure) => cure && vscode.commands.executeCommand(cures[cure] ?? ''));
  }

  private logLines(input: NodeJS.ReadableStream): void {
    readline.createInterface({ input }).on('line', (line) => this.log.info(line));
  }
}

/** What the notification `codegen/status` carries. */
interface ServerStatus {
  state: State['kind'];
  message: string;
  model: string;
}

function middleware(client: () => Client, progress: ShownProgress): Middleware {
  return {
    handleWorkDoneProgress: (token, value) => progress.take(token, value),
    workspace: {
      configuration: (params) => params.items.map(forServer),
      didChangeConfiguration: () => tellSettings(client()),
    },
    executeCommand: (command, args, next) => {
      // From a menu or the palette they come without what the server has to know.
      if (args.length > 0 && !(args[0] instanceof vscode.Uri)) {
        return next(command, args);
      }
      const editor = vscode.window.activeTextEditor;
      if (!editor) {
        return vscode.window.showInformationMessage('CodeGen: open a file first.');
      }
      const uri = client().code2ProtocolConverter.asUri(editor.document.uri);
      return next(command, [uri, editor.selection.active.line]);
    },
  };
}

function tellSettings(client: Client): Promise<void> {
  const settings = { codegen: forServer() };
  return client.sendNotification(DidChangeConfigurationNotification.type, { settings });
}

/** Enables the commands that only a running server has. */
function setServing(isServing: boolean): void {
  void vscode.commands.executeCommand('setContext', 'codegen.isServing', isServing);
}
