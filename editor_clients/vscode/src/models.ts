/** Chooses the model, and fetches one where that is asked for by name. */

import * as vscode from 'vscode';
import type { Installation, Server } from './installation';
import { run } from './programs';

/** An entry of `codegen-lsp models --json`. */
interface Model {
  name: string;
  size_mb: Record<string, number>;
  good_at: string | null;
  license: string | null;
  source: string;
  is_here: boolean;
}

export async function chooseModel(installation: Installation): Promise<void> {
  const server = await installation.find();
  if (!server) {
    throw new Error('the server is not installed');
  }
  const listing = await codegenLsp(server, installation, ['models', '--json', '--offline']);
  const { models } = JSON.parse(listing) as { models: Model[] };
  const items = models.map((model) => ({
    label: model.name,
    description: [model.good_at, model.license].filter(Boolean).join('; '),
    detail: model.is_here ? 'on this machine' : `to be fetched from ${model.source}`,
    model,
  }));
  items.sort((a, b) => Number(b.model.is_here) - Number(a.model.is_here));
  const placeHolder = 'The model that completes; what is not on this machine is fetched first';
  const chosen = await vscode.window.showQuickPick(items, { placeHolder, matchOnDetail: true });
  if (!chosen) {
    return;
  }
  const { model } = chosen;
  if (!model.is_here && !(await isFetched(server, installation, model))) {
    return;
  }
  const settings = vscode.workspace.getConfiguration('codegen');
  await settings.update('model', model.name, vscode.ConfigurationTarget.Global);
}

async function isFetched(
  server: Server,
  installation: Installation,
  model: Model,
): Promise<boolean> {
  const size = Math.min(...Object.values(model.size_mb));
  const detail = `It comes from ${model.source} and takes ${size} MB or more. ${model.license}.`;
  const question = `Fetch the model ${model.name}?`;
  const answer = await vscode.window.showInformationMessage(
    question,
    { modal: true, detail },
    'Fetch',
  );
  if (answer !== 'Fetch') {
    return false;
  }
  const options = {
    location: vscode.ProgressLocation.Notification,
    title: `CodeGen: fetching ${model.name}`,
    cancellable: true,
  };
  await vscode.window.withProgress(options, (_, token) =>
    codegenLsp(server, installation, ['pull', model.name, '--json'], token),
  );
  return true;
}

function codegenLsp(
  server: Server,
  installation: Installation,
  args: string[],
  token?: vscode.CancellationToken,
): Promise<string> {
  return run(server.command, [...server.args, ...args], installation.folder, token);
}
