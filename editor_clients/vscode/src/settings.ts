/** What a person may set. */

import * as vscode from 'vscode';

/** The languages whose turns the server reads; others are completed where `languages` says so. */
const LANGUAGES = [
  'python',
  'c',
  'cpp',
  'go',
  'java',
  'javascript',
  'javascriptreact',
  'typescript',
  'typescriptreact',
];
const SCHEMES = ['file', 'untitled', 'vscode-notebook-cell'];

/** The settings that name programs; no folder can set them. */
export interface Programs {
  path: string;
  python: string;
  wheels: string;
}

export function programs(): Programs {
  const settings = vscode.workspace.getConfiguration('codegen.server');
  return {
    path: settings.get('path', ''),
    python: settings.get('python', ''),
    wheels: settings.get('wheels', ''),
  };
}

/** Returns what the server is told: all of the section `codegen` but what the extension reads. */
export function forServer(): Record<string, unknown> {
  const section = vscode.workspace.getConfiguration().get<Record<string, unknown>>('codegen', {});
  const { server: _, ...settings } = section;
  return settings;
}

/** Returns the languages whose documents the server is told of. */
export function servedLanguages(): string[] {
  const chosen = Object.entries(languages());
  return [...new Set([...LANGUAGES, ...chosen.filter(([, isOn]) => isOn).map(([id]) => id)])];
}

export function isOn(languageId: string): boolean {
  return languages()[languageId] ?? LANGUAGES.includes(languageId);
}

export function isServed(document: vscode.TextDocument): boolean {
  return SCHEMES.includes(document.uri.scheme) && servedLanguages().includes(document.languageId);
}

export function documentSelector(): { scheme: string; language: string }[] {
  return SCHEMES.flatMap((scheme) => servedLanguages().map((language) => ({ scheme, language })));
}

/** Turns completion of a language on or off, where that was said before, else everywhere. */
export async function toggleLanguage(languageId: string): Promise<void> {
  const settings = vscode.workspace.getConfiguration('codegen');
  const said = settings.inspect<Record<string, boolean>>('languages');
  const isOfFolder = said?.workspaceValue?.[languageId] !== undefined;
  const target = isOfFolder
    ? vscode.ConfigurationTarget.Workspace
    : vscode.ConfigurationTarget.Global;
  const before = isOfFolder ? said.workspaceValue : said?.globalValue;
  await settings.update('languages', { ...before, [languageId]: !isOn(languageId) }, target);
}

function languages(): Record<string, boolean> {
  const chosen: unknown = vscode.workspace.getConfiguration('codegen').get('languages');
  return typeof chosen === 'object' && chosen !== null ? (chosen as Record<string, boolean>) : {};
}
