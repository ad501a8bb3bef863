/** Finds and runs programs; never one that lies in a folder that is open. */

import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access, realpath, stat } from 'node:fs/promises';
import * as os from 'node:os';
import * as path from 'node:path';
import * as vscode from 'vscode';

const ENDING = process.platform === 'win32' ? '.exe' : '';

/** What ran and failed; the message is the last line that it wrote. */
export class ProgramError extends Error {
  constructor(
    message: string,
    readonly output: string,
  ) {
    super(message);
  }
}

/** Returns the first program of one of the names on the PATH. */
export async function findOnPath(...names: string[]): Promise<string | undefined> {
  const folders = (process.env['PATH'] ?? '').split(path.delimiter);
  for (const name of names) {
    // An entry such as "." would mean the folder that is open.
    for (const folder of folders.filter((entry) => path.isAbsolute(entry))) {
      const file = path.join(folder, name + ENDING);
      if ((await isProgram(file)) && !(await isInOpenFolder(file))) {
        return file;
      }
    }
  }
  return undefined;
}

/** Returns a path that a person wrote, absolute, with `~` for the home folder; else undefined. */
export function absolute(written: string): string | undefined {
  const file = written.replace(/^~(?=[/\\])/, os.homedir());
  return path.isAbsolute(file) ? file : undefined;
}

export async function isProgram(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return (await stat(file)).isFile();
  } catch {
    return false;
  }
}

/**
 * Runs a program to its end and returns what it wrote to standard output.
 *
 * Rejects with ProgramError where it cannot be started, fails or is cancelled.
 */
export async function run(
  command: string,
  args: string[],
  cwd: string,
  token?: vscode.CancellationToken,
): Promise<string> {
  const stop = new AbortController();
  const listening = token?.onCancellationRequested(() => stop.abort());
  try {
    return await new Promise((resolve, reject) => {
      const options = { cwd, signal: stop.signal, maxBuffer: 1 << 26 };
      execFile(command, args, options, (error, stdout, stderr) => {
        if (error) {
          const output = `${stdout}\n${stderr}`.trim();
          const message = output.split('\n').at(-1)?.trim() || error.message;
          reject(new ProgramError(stop.signal.aborted ? 'it was cancelled' : message, output));
        } else {
          resolve(stdout);
        }
      });
    });
  } finally {
    listening?.dispose();
  }
}

async function isInOpenFolder(file: string): Promise<boolean> {
  const real = await realpath(file);
  for (const folder of vscode.workspace.workspaceFolders ?? []) {
    const root = await realpath(folder.uri.fsPath).catch(() => folder.uri.fsPath);
    // Neither the entry of the PATH nor what it links to.
    if ([file, real].some((place) => !path.relative(root, place).startsWith('..'))) {
      return true;
    }
  }
  return false;
}
