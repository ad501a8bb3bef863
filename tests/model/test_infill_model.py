"""A random CodeGen 2 model from checkpoint to completion: the parts of infill fit together."""

from pathlib import Path

import pytest

from lsp_server.completion import complete
from lsp_server.engine import Engine
from lsp_server.loading import open_model
from lsp_server.plan import Snapshot
from lsp_server.settings import Settings
from model_export import export
from tests.checkpoints import byte_tokenizer, codegen_config, random_tensors, write_checkpoint

CONFIG = codegen_config(n_embd=512, n_head=8, head_dim=128, n_positions=256, rotary_dim=16)
MASK, SEPARATOR, END = 257, 258, 259


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a random model whose tokenizer has CodeGen 2's marks."""
    path = tmp_path_factory.mktemp("codegen2")
    checkpoint = write_checkpoint(path / "checkpoint", CONFIG, random_tensors(CONFIG))
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<mask_1>", "<sep>", "<eom>"])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    manifest = export(checkpoint, path / "exported", precision="fp32")
    assert manifest.architecture.mp_num == 8
    assert manifest.can_infill
    assert manifest.end_token_ids == [256, END]
    assert manifest.special_token_ids == [256, MASK, SEPARATOR, END]
    return path / "exported"


def test_text_after_the_cursor_makes_an_infill_prompt(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine gets the published format, and a file's own marks are mere characters."""
    prompts = []
    generate = Engine.generate

    def watched(self: Engine, token_ids: list[int], **options: object) -> object:
        prompts.append(list(token_ids))
        return generate(self, token_ids, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "generate", watched)
    model = open_model(folder, Settings(kv_cache="float"))
    before, after = "a = '<mask_1>'\nb", " = 1\nc = a\n"

    complete(model, Snapshot(before + after, len(before)), max_new_tokens=16)

    (prompt,) = prompts
    marks = [token_id for token_id in prompt if token_id in (256, MASK, SEPARATOR, END)]
    assert marks == [MASK, 256, SEPARATOR, MASK]
    suffix = prompt[prompt.index(MASK) + 1 : prompt.index(256)]
    assert model.tokenizer.decode(suffix) == after
    assert model.tokenizer.decode(prompt[: prompt.index(MASK)]) == "a = '<mask_1>'\n"


def test_marks_are_never_written(folder: Path) -> None:
    """Whatever a model prefers, what stands for no text is not generated."""
    engine = Engine.open(folder)

    written = {
        token_id
        for seed in range(5)
        for token_id, _ in engine.generate(
            [70], max_new_tokens=200, temperature=100.0, seed=seed
        )
    }

    assert len(written) > 100
    assert written.isdisjoint({256, MASK, SEPARATOR, END})
