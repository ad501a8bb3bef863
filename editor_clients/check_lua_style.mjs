// Whether Lua files are formatted as stylua does it: check_lua_style.mjs [--fix] STYLUA_DIR FILE...
// stylua's own program is not on npm, its library is; it is told what stylua.toml says.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const paths = process.argv.slice(2);
const fix = paths[0] === "--fix" && paths.shift();
const stylua = createRequire(resolve(paths.shift(), "_"))("@johnnymorganz/stylua");

const settings = new URL("neovim/stylua.toml", import.meta.url);
const said = Object.fromEntries(
  Array.from(readFileSync(settings, "utf8").matchAll(/^(\w+) = "?(\w+)"?$/gm), ([, k, v]) => [k, v]),
);

// Formatting takes a configuration with it.
function configuration() {
  const config = stylua.Config.new();
  config.syntax = stylua.LuaVersion[said.syntax];
  config.column_width = Number(said.column_width);
  config.indent_type = stylua.IndentType[said.indent_type];
  config.indent_width = Number(said.indent_width);
  config.quote_style = stylua.QuoteStyle[said.quote_style];
  return config;
}

for (const path of paths) {
  const text = readFileSync(path, "utf8");
  const whole = stylua.OutputVerification.Full;
  const formatted = stylua.formatCode(text, configuration(), undefined, whole);
  if (formatted === text) continue;
  if (fix) {
    writeFileSync(path, formatted);
    continue;
  }
  console.error(`${path} would be formatted otherwise; run this with --fix`);
  process.exitCode = 1;
}
