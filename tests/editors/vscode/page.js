// What a person sees of VS Code's page; driver.mjs adds it to each page.
globalThis.seen = {
  texts: (selector) => [...document.querySelectorAll(selector)].map((part) => part.textContent),

  // The rest of the cursor's line, then the lines below it, as it would be inserted.
  ghost() {
    const first = this.texts('.ghost-text-decoration').join('');
    const parts = [...document.querySelectorAll('.ghost-text')];
    const lines = [...new Set(parts.map((part) => part.parentElement))];
    const text = [first, ...lines.map((line) => line.textContent)].join('\n');
    return text.replaceAll('\u00a0', ' ');
  },

  // The ghost text that stays: its lines are drawn one after another.
  async settledGhost() {
    let ghost;
    do {
      ghost = this.ghost();
      await new Promise((done) => setTimeout(done, 100));
    } while (ghost !== this.ghost());
    return ghost;
  },

  // The ghost text that comes in place of another; that one, if none does within a second.
  async otherGhost(than) {
    const deadline = performance.now() + 1000;
    let ghost;
    do {
      ghost = await this.settledGhost();
    } while ((ghost === '' || ghost === than) && performance.now() < deadline);
    return ghost;
  },

  // The lines of the file that are in the window, without ghost text of lines of its own.
  text() {
    const lines = document.querySelector('.editor-instance .view-lines').innerText;
    return lines.replaceAll('\u00a0', ' ');
  },

  messages() {
    return this.texts('.notifications-toasts .notification-list-item-message');
  },

  status() {
    const item = document.querySelector('[id="codegen-lsp.codegen-lsp.status"] a');
    return item?.ariaLabel ?? '';
  },

  editor(name) {
    return document.querySelector(`.editor-instance .monaco-editor[data-uri$="/${name}"]`);
  },

  isTypingIn(name) {
    return this.editor(name)?.contains(document.activeElement);
  },

  isListOpen() {
    const input = document.querySelector('.quick-input-widget input');
    return input !== null && input === document.activeElement;
  },

  isFocusedInList(text) {
    const [entry] = this.texts('.quick-input-list .monaco-list-row.focused');
    return entry?.includes(text);
  },

  hasBulbAtCursor() {
    const [bulb, cursor] = ['.lightBulbWidget', '.editor-instance .cursor'].map((selector) =>
      document.querySelector(selector)?.getClientRects()[0],
    );
    return bulb !== undefined && Math.abs(bulb.top - cursor.top) < cursor.height / 2;
  },

  // The context menu and those of its submenus that are open.
  menus() {
    const root = document.querySelector('.shadow-root-host')?.shadowRoot ?? document;
    return [...root.querySelectorAll('.monaco-menu .actions-container')];
  },

  focusedInMenu(n) {
    const focused = this.menus()[n].querySelector(':scope > .action-item.focused');
    return focused?.textContent ?? '';
  },

  onChange(look) {
    const what = { childList: true, subtree: true, characterData: true };
    new MutationObserver(look).observe(document.body, what);
  },

  // Each ghost text that was on the screen.
  ghosts: [],
  recordGhosts() {
    this.ghosts = [];
    this.onChange(() => this.ghosts.push(this.ghost()));
  },

  // How long after Enter there was ghost text, in milliseconds.
  times: [],
  time: undefined,
  timeGhosts() {
    let pressed;
    const press = (event) => {
      this.time = undefined;
      pressed = event.key === 'Enter' && !event.ctrlKey ? event.timeStamp : undefined;
    };
    addEventListener('keydown', press, true);
    this.onChange(() => {
      if (this.time === undefined && pressed !== undefined && this.ghost() !== '') {
        this.time = performance.now() - pressed;
        this.times.push(this.time);
      }
    });
  },
};
