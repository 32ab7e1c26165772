#!/usr/bin/env python3
"""python3 training/test_training.py: checks of the model and the tools around it, in seconds."""

import contextlib
import io
import json
import random
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

import recall
import retention
import train
from chat import CHAT_TEMPLATE, tokens_of
from data import VALIDATION_SHARE, TokenFile, in_validation
from evaluate import score, score_exactly
from hf_folder import read_folder, read_safetensors, write_folder
from model import KvCache, LayerMap, Model, ModelConfig
from muon import Muon, orthogonal
from tokenizer import ByteTokenizer, SentencePieceTokenizer
from wikitext import plain

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent.parent / "shared" / "golden"
MAPS = {
    "standard": "0_1_2_3_4_5_6_7",
    "cla2": "0_0_2_2_4_4_6_6",
    "lckv": "0_6_6_6_6_6_6_7",
    "sandwich-middle": "0_3_3_3_3_3_3_7",
    "two groups": "0_3_3_3_4_6_6_7",
    "mutual": "0_2_1_3_5_4_6_6",
    "windowed": "0s_1s_2s_3s_4_4_4_4",
    "windowed upward": "0_6s_6_6s_6_6_6_7",
}


def small(layer_types, **options):
    torch.manual_seed(3)
    options = {"forward_passes": 3, "sliding_window": 5, **options}
    model = Model(ModelConfig(256, layer_types, 32, 64, 2, 1, **options)).eval()
    with torch.no_grad():
        for weight in model.parameters():  # large enough for attention to matter
            if weight.dim() > 1:
                weight.mul_(6)
    return model


def logits(model, tokens, chunk, passes=None):
    cache = KvCache()
    with torch.no_grad():
        return torch.cat([model(part, cache, passes) for part in tokens.split(chunk, dim=1)], dim=1)


class LayerMapTest(unittest.TestCase):
    def test_finds_the_groups_that_are_iterated(self):
        self.assertEqual(LayerMap(MAPS["lckv"]).groups, [(0, 0, False), (1, 6, True), (7, 7, False)])
        self.assertEqual(LayerMap(MAPS["sandwich-middle"]).groups, [(0, 0, False), (1, 3, True), (4, 7, False)])
        self.assertEqual(LayerMap(MAPS["mutual"]).groups,
                         [(0, 0, False), (1, 2, True), (3, 3, False), (4, 5, True), (6, 7, False)])
        self.assertEqual(LayerMap(MAPS["cla2"]).groups, [(0, 7, False)])

    def test_refuses_what_is_no_map(self):
        for text in ("", "0__1", "0_x", "0_2", "-1"):
            with self.assertRaises(ValueError):
                LayerMap(text)


class ModelTest(unittest.TestCase):
    tokens = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(5))

    def test_as_many_passes_as_tokens_are_exact(self):
        for name, layer_types in MAPS.items():
            for force_nodiag in (False, True):
                with self.subTest(name, force_nodiag=force_nodiag):
                    model = small(layer_types, force_nodiag=force_nodiag)
                    exact = logits(model, self.tokens, 1)
                    torch.testing.assert_close(logits(model, self.tokens, 24, 24), exact, rtol=1e-4, atol=1e-4)
                    torch.testing.assert_close(logits(model, self.tokens, 8, 8), exact, rtol=1e-4, atol=1e-4)

    def test_the_first_tokens_of_a_chunk_are_exact_up_to_the_number_of_passes(self):
        model = small(MAPS["lckv"])
        exact, iterated = logits(model, self.tokens, 1), logits(model, self.tokens, 24, 4)
        torch.testing.assert_close(iterated[:, :4], exact[:, :4], rtol=1e-4, atol=1e-4)
        self.assertGreater((iterated - exact).abs().max().item(), 1e-2)

    def test_no_position_sees_a_later_one(self):
        for layer_types in MAPS.values():
            model = small(layer_types)
            changed = self.tokens.clone()
            changed[:, 12:] = 255 - changed[:, 12:]
            torch.testing.assert_close(logits(model, changed, 24)[:, :12], logits(model, self.tokens, 24)[:, :12])

    def test_passes_without_gradient_do_not_reach_the_weights(self):
        def gradient(m):
            model = small(MAPS["lckv"], forward_passes=m)
            model(self.tokens).square().mean().backward()
            return model.layers[2].self_attn.q_proj.weight.grad

        # from a converged state on, more passes without gradient change nothing
        torch.testing.assert_close(gradient(22), gradient(40), rtol=1e-3, atol=1e-5)
        self.assertFalse(torch.allclose(gradient(0), gradient(22), rtol=1e-3, atol=1e-5))

    def test_every_weight_learns_in_mixed_precision_too(self):
        model = small(MAPS["lckv"])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(self.tokens)
        logits.float().square().mean().backward()
        self.assertEqual([name for name, weight in model.named_parameters() if weight.grad is None], [])

    def test_the_fused_attention_of_current_pytorch_gives_the_same(self):
        def fused(q, k, v, attn_mask=None, is_causal=False):  # as its documentation defines it
            if is_causal:
                attn_mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
            scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
            return scores.masked_fill(~attn_mask, -torch.inf).softmax(-1) @ v

        fused = getattr(F, "scaled_dot_product_attention", fused)
        for name, layer_types in MAPS.items():
            with self.subTest(name):
                model = small(layer_types)
                with mock.patch("torch.nn.functional.scaled_dot_product_attention", fused, create=True):
                    actual = logits(model, self.tokens, 8)
                with mock.patch("model.F", types.SimpleNamespace(pad=F.pad, silu=F.silu)):
                    expected = logits(model, self.tokens, 8)
                torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)

    def test_agrees_with_the_golden_vectors(self):
        if not GOLDEN.is_dir():
            self.skipTest("../shared/golden is not here")
        chunks = {
            "logits_exact_sequential": [1] * 40,
            "logits_prefill32_iter9_then_decode8": [32] + [1] * 8,
            "logits_prefill16x2_iter9_then_decode8": [16, 16] + [1] * 8,
        }
        for folder in sorted(path for path in GOLDEN.iterdir() if path.is_dir()):
            model, expected = read_folder(folder), read_safetensors(folder / "expected.safetensors")
            for name, sizes in chunks.items():
                with self.subTest(folder.name, name=name), torch.no_grad():
                    cache = KvCache()
                    parts = expected["input_ids"].long()[None].split(sizes, dim=1)
                    actual = torch.cat([model(part, cache) for part in parts], dim=1)[0]
                    torch.testing.assert_close(actual, expected[name], rtol=0, atol=1e-4)


class EvaluateTest(unittest.TestCase):
    def test_chunks_with_enough_passes_score_like_single_tokens(self):
        model = small(MAPS["lckv"])
        segments = torch.randint(0, 256, (3, 21), generator=torch.Generator().manual_seed(6))
        exact = score_exactly(model, segments)
        np.testing.assert_allclose(score(model, segments, 8, 8).losses, exact.losses, rtol=1e-4)
        with torch.no_grad():
            logits = model(segments, passes=21)[:, :-1]
        whole = F.cross_entropy(logits.transpose(1, 2), segments[:, 1:], reduction="none")
        np.testing.assert_allclose(whole.mean(1).numpy(), exact.losses, rtol=1e-4)
        second_half = score_exactly(model, segments, unscored=10)
        np.testing.assert_allclose(whole[:, 10:].mean(1).numpy(), second_half.losses, rtol=1e-4)
        np.testing.assert_array_equal(second_half.best, exact.best[:, 10:])
        right = logits.argmax(-1) == segments[:, 1:]
        self.assertAlmostEqual(exact.accuracy, right.float().mean().item())


class FolderTest(unittest.TestCase):
    def test_a_folder_reads_back_as_it_was_written(self):
        for layer_types, kind in ((MAPS["standard"], "llama"), (MAPS["lckv"], "lckv-llama")):
            with self.subTest(kind), tempfile.TemporaryDirectory() as folder:
                model = small(layer_types)
                write_folder(folder, model, ByteTokenizer())
                config = json.loads((Path(folder) / "config.json").read_text())
                self.assertEqual(config["model_type"], kind)
                read = read_folder(folder)
                for name, weight in model.state_dict().items():
                    torch.testing.assert_close(read.state_dict()[name], weight, rtol=0, atol=0)
                names = read_safetensors(Path(folder) / "model.safetensors")
                self.assertEqual("model.layers.1.self_attn.k_proj.weight" in names, kind == "llama")


class TokenizerTest(unittest.TestCase):
    text = "Ünïcode: 漢字 🙂,  two spaces\nand\ta tab. 12345\n\n"

    def test_bytes_give_the_text_back(self):
        tokenizer = ByteTokenizer()
        self.assertEqual(tokenizer.decode(tokenizer.encode(self.text) + [tokenizer.end_of_text]), self.text)

    def test_bpe_gives_text_back_that_it_was_not_trained_on(self):
        try:
            import sentencepiece  # noqa: F401
        except ImportError:
            self.skipTest("SentencePiece is not installed")
        rng = random.Random(0)
        words = ["".join(rng.choices("aeioumnrst", k=6)) for _ in range(400)]
        lines = (f"The {i}th line about rivers and {' '.join(rng.choices(words, k=5))}.\n" for i in range(3000))
        tokenizer = SentencePieceTokenizer.train(lines, 512)
        self.assertEqual(tokenizer.decode(tokenizer.encode(self.text)), self.text)
        self.assertLess(len(tokenizer.encode("about rivers")), 6)


class ChatTest(unittest.TestCase):
    messages = [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"},
                {"role": "assistant", "content": "So long"}]

    def test_answers_and_the_tokens_that_end_them_are_scored(self):
        ids, scored = tokens_of(self.messages, ByteTokenizer())
        self.assertEqual(bytes(ids), b"Be brief.\nUser: Hi\nAssistant: Hello\0User: Bye\nAssistant: So long\0")
        self.assertEqual(bytes(id for id, score in zip(ids, scored) if score), b" Hello\0 So long\0")
        answer = {"role": "assistant", "content": "The word is tea.", "value": "tea"}
        ids, scored = tokens_of([*self.messages[:2], answer], ByteTokenizer())
        self.assertTrue(bytes(ids).endswith(b"Assistant: The word is tea.\0"))
        self.assertEqual(bytes(id for id, score in zip(ids, scored) if score), b" tea")

    def test_the_template_renders_what_was_trained(self):
        try:
            import jinja2
        except ImportError:
            self.skipTest("Jinja2 is not installed")
        template = jinja2.Template(CHAT_TEMPLATE)
        ids, _ = tokens_of(self.messages, ByteTokenizer())
        self.assertEqual(template.render(messages=self.messages, eos_token="\0").encode(), bytes(ids))
        prompt = template.render(messages=self.messages[:2], eos_token="\0", add_generation_prompt=True)
        self.assertTrue(bytes(ids).startswith(prompt.encode()))

    def test_answers_about_a_passage_stand_in_it(self):
        rng = random.Random(7)
        sentences = [f"Sentence {i} says nothing." for i in range(99)]
        roles = set()
        for _ in range(200):
            messages = recall.conversation(rng, sentences, 500)
            roles.add(messages[0]["role"])
            read = " ".join(m["content"] for m in messages[:2] if m["role"] != "assistant")
            for asked, answered in zip(messages, messages[1:]):
                if answered["role"] == "assistant":
                    form, = [form for form, question, *_ in recall.KINDS if question in asked["content"]]
                    self.assertRegex(answered["content"], form.format(r"\w+"))
                    self.assertIn(answered["content"], read)
        self.assertEqual(roles, {"system", "user"})

    def test_lazy_layers_keep_few_tokens_and_producers_what_their_widest_reader_needs(self):
        for plan, rows in (("0_1_2_3", 400), ("0_1s_2s_3;window=16;sinks=4", 240), ("0s_2s_2_3s;window=16;sinks=4", 140),
                           ("0s_1s;window=200;sinks=4", 200)):
            self.assertEqual(retention.kept_rows(plan, 100, retention.lazy_layers(plan)), rows)
        self.assertIsNone(retention.lazy_layers("0_1;window=16;sinks=4;lazy=0.6"))
        self.assertEqual(retention.kept_rows("0_1;window=16;sinks=4;lazy=0.6", 100, 0.5), 160)

    def test_a_needle_lies_at_its_depth(self):
        sentences = [f"This is sentence number {i}." for i in range(400)]
        for depth in (0.0, 0.5, 1.0):
            question, word = retention.needle(random.Random(1), sentences, ByteTokenizer(), 1000, depth)
            text = question.split("\n")[0]
            self.assertLess(abs(text.index("The secret word") / (len(text) - 30) - depth), 0.05)
            self.assertIn(f"The secret word is {word}.", text)
            self.assertGreater(len(question), 950)
            self.assertLessEqual(len(question), 1000)

    def test_wikitext_becomes_plain(self):
        tokens = ' A " 2 @.@ 5 @-@ metre " wall ( of <unk> ) , it \'s 1 @,@ 000 years old . \n \n = = Next = = \n'
        self.assertEqual(plain(tokens), 'A "2.5-metre" wall (of), it\'s 1,000 years old.\n= = Next = =\n')


class MuonTest(unittest.TestCase):
    def test_directions_are_kept_and_their_sizes_become_equal(self):
        matrix = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
        u, size, v = torch.linalg.svd(matrix, full_matrices=False)
        for given, left, right in ((matrix, u, v), (matrix.t(), v.t(), u.t())):
            sizes = left.t() @ orthogonal(given) @ right.t()
            self.assertLess((sizes - torch.diag(sizes.diag())).abs().max().item(), 1e-4)
            self.assertTrue(((sizes.diag() > 0.6) & (sizes.diag() < 1.3)).all(), sizes.diag())
        self.assertGreater(size.max() / size.min(), 2)

    def test_finds_a_minimum(self):
        goal = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
        weight = torch.nn.Parameter(torch.zeros(6, 4))
        optimizer = Muon([weight], weight_decay=0.0)
        for step in range(200):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
            optimizer.zero_grad()
            (weight - goal).square().sum().backward()
            optimizer.step()
        torch.testing.assert_close(weight.data, goal, rtol=0, atol=0.05)


class TrainingTest(unittest.TestCase):
    def run_tool(self, name, *arguments):
        return subprocess.run([sys.executable, str(HERE / name), *map(str, arguments)], check=True, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout

    def stop_at_step(self, step, *arguments):
        train_step = train.Trainer.train_step

        def stopping(trainer, *rest):
            if trainer.step == step:
                raise KeyboardInterrupt
            return train_step(trainer, *rest)

        with mock.patch.object(train.Trainer, "train_step", stopping), \
                mock.patch.object(sys, "argv", ["train.py", *map(str, arguments)]), \
                contextlib.redirect_stdout(io.StringIO()), self.assertRaises(KeyboardInterrupt):
            train.main()

    def test_a_resumed_run_ends_where_an_uninterrupted_one_does(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "text").mkdir()
            lines = [json.dumps({"id": f"d{i}", "text": f"document {i} says {i*i} and {i+7}. " * 5}) for i in range(400)]
            (folder / "text" / "documents.jsonl").write_text("\n".join(lines))
            self.run_tool("data.py", folder / "text", "--out", folder / "data", "--tokenizer", "bytes")
            model = ["--data", folder / "data", "--layer-types", "0_2_2_3", "--hidden-size", 32, "--heads", 2,
                     "--kv-heads", 1, "--forward-passes", 2, "--context", 32, "--batch-size", 4, "--threads", 1,
                     "--checkpoint-every", 4, "--evaluate-every", 4, "--device", "cpu"]
            whole = self.run_tool("train.py", "--out", folder / "whole", "--steps", 12, *model)
            self.stop_at_step(10, "--out", folder / "parts", "--steps", 12, *model)
            resumed = self.run_tool("train.py", "--out", folder / "parts", "--steps", 12, *model)
            self.assertIn("going on from step 8", resumed)
            self.assertEqual(whole.splitlines()[-1].split(", in")[0], resumed.splitlines()[-1].split(", in")[0])
            self.assertTrue((folder / "parts" / "log.csv").exists())

    def test_conversations_fill_blocks_and_continue_a_training(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "text").mkdir()
            lines = [json.dumps({"id": f"d{i}", "question": f"How much is {i} and {i}?" * (1 + i % 4), "answer": f"{2*i}."})
                     for i in range(400)]
            (folder / "text" / "sums.jsonl").write_text("\n".join(lines))
            self.run_tool("data.py", folder / "text", "--out", folder / "plain", "--tokenizer", "bytes")
            self.run_tool("data.py", folder / "text", "--out", folder / "chat", "--tokenizer", folder / "plain", "--chat", 65)
            file = TokenFile(folder / "chat", "train")
            self.assertEqual(len(file) % 65, 0)
            tokens, scored = file.sample(np.random.default_rng(1), 8, 65)
            for row, flags in zip(tokens, scored):
                self.assertTrue(bytes(row.astype("u1")).startswith(b"User: How much"))
                self.assertRegex(bytes(row[flags == 1].astype("u1")), rb"^( \d+\.\0)*( \d*)?$")  # the last may be cut
            self.assertGreater(scored.sum(), 0)
            model = ["--layer-types", "0_2_2_3", "--hidden-size", 32, "--heads", 2, "--kv-heads", 1, "--batch-size", 4,
                     "--threads", 1, "--device", "cpu", "--muon", 0.02, "--bfloat16"]
            self.run_tool("train.py", "--data", folder / "plain", "--out", folder / "first", "--steps", 4, "--context", 32, *model)
            out = self.run_tool("train.py", "--data", folder / "plain", f"{folder / 'chat'}=3", "--out", folder / "second",
                                "--from", folder / "first", "--steps", 4, "--context", 64, *model)
            self.assertIn("done: step 4", out)
            with self.assertRaises(subprocess.CalledProcessError) as failed:
                self.run_tool("train.py", "--data", folder / "plain", "--out", folder / "third", "--from", folder / "first",
                              "--steps", 4, "--context", 32, *model, "--layer-types", "0_1_2_3")
            self.assertIn("layer_types differ", failed.exception.stdout)

    def test_the_loss_of_a_sequence_counts_its_scored_tokens(self):
        model = small("0_1")
        tokens = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(8))
        scored = torch.zeros_like(tokens)
        scored[0, 3], scored[1, 5:7] = 1, 1
        with torch.no_grad():
            losses = F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")
            actual = train.loss_of(model, tokens, scored)
        torch.testing.assert_close(actual, (losses[0, 2] + losses[1, 4:6].mean()) / 2)

    def test_about_one_document_in_a_hundred_is_held_out(self):
        count = sum(in_validation(f"document {i}") for i in range(20_000))
        self.assertAlmostEqual(count * VALIDATION_SHARE / 20_000, 1, delta=0.2)


if __name__ == "__main__":
    unittest.main()
