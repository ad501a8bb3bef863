/**
 * Finds the server: the one that a setting names, the one that was installed from the wheel
 * that the extension carries, or the one on the PATH. Installs it, when asked, into a virtual
 * environment in the extension's own storage.
 */

import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import * as vscode from 'vscode';
import { absolute, findOnPath, isProgram, ProgramError, run } from './programs';
import { programs } from './settings';

/** How the command line `codegen-lsp` is started; more arguments may follow. */
export interface Server {
  command: string;
  args: string[];
}

const BIN = process.platform === 'win32' ? ['Scripts', 'python.exe'] : ['bin', 'python'];
// Neither variables nor the folder where it is started add to what Python imports.
const ISOLATED = '-I';

export class Installation {
  private readonly environment: string;
  private readonly record: string;

  constructor(
    private readonly context: vscode.ExtensionContext,
    private readonly log: vscode.LogOutputChannel,
  ) {
    this.environment = path.join(this.folder, 'server');
    this.record = path.join(this.environment, 'installed');
  }

  /** A folder of the extension's own, where what it starts is started. */
  get folder(): string {
    return this.context.globalStorageUri.fsPath;
  }

  /** Returns the server, undefined where there is none; rejects where a setting is wrong. */
  async find(): Promise<Server | undefined> {
    await mkdir(this.folder, { recursive: true });
    const named = programs().path;
    if (named) {
      const command = absolute(named);
      if (!command) {
        throw new Error(`codegen.server.path names ${named}, which is no absolute path`);
      }
      if (!(await isProgram(command))) {
        throw new Error(`codegen.server.path names ${command}, which is no program`);
      }
      return { command, args: [] };
    }
    if (await this.installed()) {
      return { command: this.python, args: [ISOLATED, '-m', 'lsp_server'] };
    }
    const command = await findOnPath('codegen-lsp');
    return command ? { command, args: [] } : undefined;
  }

  /** Tells whether the installed server is another than the one that the extension carries. */
  async isOutdated(): Promise<boolean> {
    const installed = await this.installed();
    return installed !== undefined && installed !== (await name(await this.wheel()));
  }

  /** Installs the server, with progress; rejects with what went wrong and what to do. */
  async install(): Promise<void> {
    const options = {
      location: vscode.ProgressLocation.Notification,
      title: 'Installing the CodeGen server',
      cancellable: true,
    };
    await vscode.window.withProgress(options, async (progress, token) => {
      try {
        await this.installWith((message) => progress.report({ message }), token);
      } catch (error) {
        if (error instanceof ProgramError) {
          this.log.error(error.output);
        }
        const reason = error instanceof Error ? error.message : String(error);
        throw new Error(`the server could not be installed: ${reason}`);
      }
    });
  }

  private async installWith(
    report: (message: string) => void,
    token: vscode.CancellationToken,
  ): Promise<void> {
    const wheels = programs().wheels;
    const folder = wheels ? absolute(wheels) : undefined;
    if (wheels && !folder) {
      throw new Error(`codegen.server.wheels names ${wheels}, which is no absolute path`);
    }
    const wheel = await this.wheel();
    const python = await this.findPython();
    await mkdir(this.folder, { recursive: true });
    // A half-made environment has no record, so it is never started.
    await rm(this.record, { force: true });
    report('making its environment');
    await this.makeEnvironment(python, token);
    report(folder ? `from ${folder}` : 'from PyPI; this takes a few minutes');
    const source = folder ? ['--no-index', '--find-links', folder] : [];
    const install = ['install', '--no-input', '--disable-pip-version-check', ...source, wheel];
    this.log.info(`pip ${install.join(' ')}`);
    await run(this.python, [ISOLATED, '-m', 'pip', ...install], this.folder, token);
    await writeFile(this.record, await name(wheel));
  }

  private async makeEnvironment(python: string, token: vscode.CancellationToken): Promise<void> {
    try {
      const venv = [ISOLATED, '-m', 'venv', '--clear', this.environment];
      await run(python, venv, this.folder, token);
    } catch (error) {
      if (error instanceof ProgramError && error.output.includes('ensurepip')) {
        const cure = 'on Debian and Ubuntu, install the package python3-venv';
        throw new ProgramError(`${python} cannot make environments; ${cure}`, error.output);
      }
      throw error;
    }
  }

  /** Returns a Python that can run the server. */
  private async findPython(): Promise<string> {
    const named = programs().python;
    const python = named ? absolute(named) : await findOnPath('python3', 'python');
    const cure = 'install it, or name one in the setting codegen.server.python';
    if (!python || !(await isProgram(python))) {
      throw new Error(`${named || 'Python'} is not there; the server needs Python 3.11; ${cure}`);
    }
    const question = 'import sys; print(*sys.version_info[:2])';
    const answer = await run(python, [ISOLATED, '-c', question], this.folder);
    const [major = 0, minor = 0] = answer.trim().split(' ').map(Number);
    if (major < 3 || (major === 3 && minor < 11)) {
      throw new Error(`${python} is Python ${major}.${minor}; the server needs 3.11; ${cure}`);
    }
    return python;
  }

  private get python(): string {
    return path.join(this.environment, ...BIN);
  }

  /** Returns the name of the wheel that was installed. */
  private installed(): Promise<string | undefined> {
    return readFile(this.record, 'utf8').catch(() => undefined);
  }

  private async wheel(): Promise<string> {
    const folder = this.context.asAbsolutePath('server');
    const wheel = (await readdir(folder)).find((name) => name.endsWith('.whl'));
    if (!wheel) {
      throw new Error(`there is no wheel in ${folder}; install the extension again`);
    }
    return path.join(folder, wheel);
  }
}

/** Returns what tells one wheel from another. */
async function name(wheel: string): Promise<string> {
  return `${path.basename(wheel)} ${(await stat(wheel)).size}`;
}
