"""Per-utterance low-rank updates: against loops, PEFT and merged weights, and their bad inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hyperasr.adapters import lora
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.types import LayerFactors, LoRAFactors

D_MODEL, D_FF, N_LAYER = 32, 128, 2
SOME = ("decoder.fc1", "decoder.cross_v_proj", "encoder.fc2", "encoder.q_proj")


def random_factors(
    whisper: nn.Module,
    names: tuple[str, ...],
    n_utt: int,
    rank: int = 3,
    *,
    seed: int = 1,
    **kwargs: Any,
) -> LoRAFactors:
    """Factors large enough to move the logits far more than any rounding."""
    g = torch.Generator().manual_seed(seed)
    targets = {
        name: LayerFactors(
            torch.randn(s.n_layer, n_utt, rank, s.d_in, generator=g) * 0.3,
            torch.randn(s.n_layer, n_utt, s.d_out, rank, generator=g) * 0.3,
        )
        for name, s in lora.target_shapes(whisper, names).items()
    }
    return LoRAFactors(targets, scaling=kwargs.pop("scaling", 0.7), **kwargs)


def one_utterance(factors: LoRAFactors, u: int) -> LoRAFactors:
    return factors.map(lambda t: t[:, u : u + 1])


def inputs(rows: int, n_tokens: int = 5, seed: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "input_features": torch.randn(rows, 80, 3000, generator=g),
        "decoder_input_ids": torch.randint(4, 200, (rows, n_tokens), generator=g),
    }


def logits(whisper: Any, batch: dict[str, Tensor]) -> Tensor:
    return whisper(**batch, use_cache=False).logits


def decoder_logits(whisper: Any, states: Tensor, tokens: Tensor) -> Tensor:
    return whisper(encoder_outputs=(states,), decoder_input_ids=tokens, use_cache=False).logits


@pytest.fixture
def decoder_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Encoder states and tokens of four rows."""
    states = torch.randn(4, 6, D_MODEL, generator=generator)
    return states, torch.randint(4, 200, (4, 5), generator=generator)


class TestTargets:
    def test_finds_the_layers_in_order(self, tiny_whisper: Any) -> None:
        found = lora.find_targets(
            tiny_whisper, ["decoder.fc1", "decoder.cross_k_proj", "encoder.out_proj"]
        )
        model = tiny_whisper.model
        assert found["decoder.fc1"] == [layer.fc1 for layer in model.decoder.layers]
        cross = [layer.encoder_attn.k_proj for layer in model.decoder.layers]
        assert found["decoder.cross_k_proj"] == cross
        own = [layer.self_attn.out_proj for layer in model.encoder.layers]
        assert found["encoder.out_proj"] == own

    def test_every_name_is_found(self, tiny_whisper: Any) -> None:
        found = lora.find_targets(tiny_whisper, lora.TARGET_NAMES)
        assert len({id(m) for ms in found.values() for m in ms}) == 16 * N_LAYER

    def test_shapes(self, tiny_whisper: Any) -> None:
        shapes = lora.target_shapes(tiny_whisper, ["decoder.fc1", "decoder.fc2"])
        assert shapes["decoder.fc1"] == lora.TargetShape(N_LAYER, D_MODEL, D_FF)
        assert shapes["decoder.fc2"] == lora.TargetShape(N_LAYER, D_FF, D_MODEL)
        assert shapes["decoder.fc1"].n_weights(rank=3) == 2 * 3 * (32 + 128)

    def test_whisper_may_be_wrapped(self, tiny_whisper: Any) -> None:
        wrapped = nn.ModuleDict({"speaker": nn.Linear(2, 2), "backbone": tiny_whisper})
        found = lora.find_targets(wrapped, ["decoder.fc1"])
        assert found["decoder.fc1"][0] is tiny_whisper.model.decoder.layers[0].fc1

    @pytest.mark.parametrize(
        ("name", "closest"),
        [("decoder.fc", "decoder.fc1"), ("encoder.cross_q_proj", "q_proj"), ("fc1", "fc1")],
    )
    def test_unknown_name_names_the_closest(
        self, tiny_whisper: Any, name: str, closest: str
    ) -> None:
        with pytest.raises(ConfigError, match=f"unknown target '{name}'.*{closest}"):
            lora.find_targets(tiny_whisper, [name])

    def test_name_that_matches_no_layer(self, tiny_whisper: Any) -> None:
        for layer in tiny_whisper.model.decoder.layers:
            layer.fc1 = nn.Identity()
        with pytest.raises(ConfigError, match=r"'decoder\.fc1' matches no linear layer"):
            lora.find_targets(tiny_whisper, ["decoder.fc1"])

    def test_model_without_whisper(self) -> None:
        with pytest.raises(ConfigError, match="Linear holds no Whisper"):
            lora.find_targets(nn.Linear(2, 2), ["decoder.fc1"])


class TestParity:
    def test_zero_factors_are_the_backbone_bit_for_bit(self, tiny_whisper: Any) -> None:
        batch = inputs(3)
        factors = random_factors(tiny_whisper, lora.TARGET_NAMES, 3)
        zero_b = LoRAFactors(
            {n: LayerFactors(f.A, torch.zeros_like(f.B)) for n, f in factors.targets.items()}
        )
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                plain = logits(tiny_whisper, batch)
                with lora.using(tiny_whisper, zero_b):
                    adapted = logits(tiny_whisper, batch)
            assert torch.equal(plain, adapted)

    @torch.no_grad()
    def test_batch_equals_loop_over_utterances_with_explicit_weights(
        self, tiny_whisper: Any
    ) -> None:
        batch = inputs(3)
        plain = logits(tiny_whisper, batch)
        factors = random_factors(tiny_whisper, SOME, 3)
        with lora.using(tiny_whisper, factors):
            batched = logits(tiny_whisper, batch)
        for u in range(3):
            with lora.merged(tiny_whisper, one_utterance(factors, u)):
                alone = logits(tiny_whisper, {k: v[u : u + 1] for k, v in batch.items()})
            torch.testing.assert_close(batched[u : u + 1], alone, atol=1e-5, rtol=1e-5)
        assert (batched - plain).abs().max() > 0.1

    @torch.no_grad()
    @pytest.mark.parametrize("n_tokens", [1, 5])
    def test_beams_are_adjacent_rows(
        self, tiny_whisper: Any, decoder_batch: tuple[Tensor, Tensor], n_tokens: int
    ) -> None:
        states, tokens = decoder_batch[0], decoder_batch[1][:, :n_tokens]
        factors = random_factors(tiny_whisper, ("decoder.fc1", "decoder.fc2"), 2)
        with lora.using(tiny_whisper, factors):
            beams = decoder_logits(tiny_whisper, states, tokens)
        with lora.using(tiny_whisper, factors.map(lambda t: t.repeat_interleave(2, dim=1))):
            repeated = decoder_logits(tiny_whisper, states, tokens)
        torch.testing.assert_close(beams, repeated, atol=1e-5, rtol=1e-5)
        swapped = factors.map(lambda t: t.flip(1))
        with lora.using(tiny_whisper, swapped):
            assert (decoder_logits(tiny_whisper, states, tokens) - beams).abs().max() > 0.1

    @torch.no_grad()
    def test_beam_search_decodes_each_utterance_with_its_own_factors(
        self, tiny_whisper: Any
    ) -> None:
        mel = inputs(2)["input_features"]
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 2, scaling=3.0)
        options = {"num_beams": 3, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
        with lora.using(tiny_whisper, factors):
            batched = tiny_whisper.generate(mel, **options)
        for u in range(2):
            with lora.using(tiny_whisper, one_utterance(factors, u)):
                alone = tiny_whisper.generate(mel[u : u + 1], **options)
            assert torch.equal(batched[u], alone[0])

    @torch.no_grad()
    def test_shared_factors_serve_any_number_of_rows(
        self, tiny_whisper: Any, decoder_batch: tuple[Tensor, Tensor]
    ) -> None:
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 1, shared=True)
        with lora.using(tiny_whisper, factors):
            shared = decoder_logits(tiny_whisper, *decoder_batch)
        with lora.merged(tiny_whisper, factors):
            explicit = decoder_logits(tiny_whisper, *decoder_batch)
        torch.testing.assert_close(shared, explicit, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_peft_computes_the_same(
        self, tiny_whisper: Any, decoder_batch: tuple[Tensor, Tensor]
    ) -> None:
        import copy

        import peft

        factors = random_factors(tiny_whisper, ("decoder.fc1",), 1, rank=3, scaling=5 / 3)
        config = peft.LoraConfig(
            r=3, lora_alpha=5, target_modules=r"model\.decoder\.layers\.\d+\.fc1"
        )
        theirs = peft.get_peft_model(copy.deepcopy(tiny_whisper), config).eval()
        layers = [m for m in theirs.modules() if isinstance(m, peft.tuners.lora.Linear)]
        assert len(layers) == N_LAYER
        for i, layer in enumerate(layers):
            layer.lora_A["default"].weight.copy_(factors["decoder.fc1"].A[i, 0])
            layer.lora_B["default"].weight.copy_(factors["decoder.fc1"].B[i, 0])
        expected = decoder_logits(theirs, *decoder_batch)
        with lora.using(tiny_whisper, factors):
            ours = decoder_logits(tiny_whisper, *decoder_batch)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)

    def test_gradients_equal_those_of_a_loop(
        self, tiny_whisper: Any, decoder_batch: tuple[Tensor, Tensor]
    ) -> None:
        tiny_whisper.requires_grad_(False)
        names = ("decoder.fc1", "decoder.q_proj")
        batched, looped = (
            random_factors(tiny_whisper, names, 4).map(lambda t: t.requires_grad_()) for _ in "ab"
        )
        with lora.using(tiny_whisper, batched):
            decoder_logits(tiny_whisper, *decoder_batch).square().mean().backward()
        states, tokens = decoder_batch
        n_logits = tokens.numel() * 200
        for u in range(4):
            for name in names:
                for layer, linear in enumerate(lora.find_targets(tiny_whisper, [name])[name]):
                    delta = lora.delta_weight(one_utterance(looped, u), name, layer)[0]
                    nn.utils.parametrize.register_parametrization(linear, "weight", _Plus(delta))
            out = decoder_logits(tiny_whisper, states[u : u + 1], tokens[u : u + 1])
            (out.square().sum() / n_logits).backward()
            for name in names:
                for linear in lora.find_targets(tiny_whisper, [name])[name]:
                    nn.utils.parametrize.remove_parametrizations(
                        linear, "weight", leave_parametrized=False
                    )
        for name in names:
            for side in "AB":
                ours = getattr(batched[name], side).grad
                theirs = getattr(looped[name], side).grad
                assert ours.abs().max() > 0
                torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
        assert all(p.grad is None for p in tiny_whisper.parameters())

    def test_gradients_flow_where_the_block_is_entered_without(
        self, tiny_whisper: Any, decoder_batch: tuple[Tensor, Tensor]
    ) -> None:
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 4).map(
            lambda t: t.requires_grad_()
        )
        with torch.no_grad():
            block = lora.using(tiny_whisper, factors)
            block.__enter__()
        decoder_logits(tiny_whisper, *decoder_batch).sum().backward()
        block.__exit__(None, None, None)
        assert factors["decoder.fc1"].A.grad.abs().max() > 0

    def test_a_layer_that_keeps_its_output_for_backward_is_left_alone(
        self, tiny_whisper: Any, generator: torch.Generator
    ) -> None:
        class Exp(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x).exp()

        layer = Exp(D_MODEL, D_FF)
        for block in tiny_whisper.model.decoder.layers:
            block.fc1 = layer
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 2)
        x = torch.randn(2, 3, D_MODEL, generator=generator)
        layer(x).sum().backward()
        expected, layer.weight.grad = layer.weight.grad, None
        with lora.using(tiny_whisper, factors):
            layer(x).sum().backward()
        torch.testing.assert_close(layer.weight.grad, expected)

    @torch.no_grad()
    def test_nested_blocks_add_up(
        self, tiny_whisper: Any, decoder_batch: tuple[Tensor, Tensor]
    ) -> None:
        first, second = (random_factors(tiny_whisper, ("decoder.fc1",), 4, seed=s) for s in (1, 2))
        f, s = first["decoder.fc1"], second["decoder.fc1"]
        both = LayerFactors(torch.cat([f.A, s.A], 2), torch.cat([f.B, s.B], 3))
        with lora.using(tiny_whisper, LoRAFactors({"decoder.fc1": both}, first.scaling)):
            expected = decoder_logits(tiny_whisper, *decoder_batch)
        with lora.using(tiny_whisper, first), lora.using(tiny_whisper, second):
            nested = decoder_logits(tiny_whisper, *decoder_batch)
        torch.testing.assert_close(nested, expected, atol=1e-5, rtol=1e-5)


class _Plus(nn.Module):
    """The slow twin: a weight with an explicit sum."""

    def __init__(self, delta: Tensor) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.delta


class TestPrecision:
    @pytest.mark.parametrize("autocast", [False, True])
    def test_bf16_products_accumulate_in_float32(
        self, tiny_whisper: Any, generator: torch.Generator, autocast: bool
    ) -> None:
        linear = tiny_whisper.model.decoder.layers[0].fc1
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 2, rank=8)
        x = torch.randn(2, 3, D_MODEL, generator=generator)
        if not autocast:
            tiny_whisper.to(torch.bfloat16)
            x = x.to(torch.bfloat16)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            plain = linear(x)
            with lora.using(tiny_whisper, factors):
                adapted = linear(x)
        delta = lora.delta_weight(factors, "decoder.fc1", 0)
        expected = (plain.float() + x.float() @ delta.mT).to(torch.bfloat16)
        assert adapted.dtype is torch.bfloat16
        # One unit in the last place where float32 sums in another order round otherwise.
        assert (adapted == expected).float().mean() > 0.98
        torch.testing.assert_close(adapted, expected, atol=0, rtol=2**-7)

    def test_bf16_factors_in_a_float32_model(
        self, tiny_whisper: Any, decoder_batch: tuple[Tensor, Tensor]
    ) -> None:
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 4).map(lambda t: t.bfloat16())
        with torch.no_grad():
            with lora.using(tiny_whisper, factors):
                narrow = decoder_logits(tiny_whisper, *decoder_batch)
            with lora.using(tiny_whisper, factors.map(lambda t: t.float())):
                wide = decoder_logits(tiny_whisper, *decoder_batch)
        assert narrow.dtype is torch.float32
        assert torch.equal(narrow, wide)


class TestHooks:
    def test_removed_after_an_exception(self, tiny_whisper: Any) -> None:
        batch = inputs(2)
        with torch.no_grad():
            plain = logits(tiny_whisper, batch)
            with (
                pytest.raises(RuntimeError, match="stop"),
                lora.using(tiny_whisper, random_factors(tiny_whisper, SOME, 2)),
            ):
                raise RuntimeError("stop")
            assert torch.equal(logits(tiny_whisper, batch), plain)
        assert not any(m._forward_hooks for m in tiny_whisper.modules())

    def test_removed_when_entering_fails_half_way(
        self, tiny_whisper: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        second = tiny_whisper.model.decoder.layers[1].fc1

        def fail(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("stop")

        monkeypatch.setattr(second, "register_forward_hook", fail)
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 1)
        with pytest.raises(RuntimeError, match="stop"), lora.using(tiny_whisper, factors):
            pass
        assert not any(m._forward_hooks for m in tiny_whisper.modules())

    @torch.no_grad()
    def test_hooks_of_others_survive_and_see_the_adapted_output(self, tiny_whisper: Any) -> None:
        linear = tiny_whisper.model.decoder.layers[0].fc1
        seen: list[tuple[Tensor, Tensor]] = []
        handle = linear.register_forward_hook(lambda m, a, y: seen.append((y, y.clone())))
        x = torch.ones(2, 1, D_MODEL)
        with lora.using(tiny_whisper, random_factors(tiny_whisper, ("decoder.fc1",), 2)):
            adapted = linear(x)
        plain = linear(x)
        assert len(seen) == 2
        assert all(torch.equal(now, then) for now, then in seen)
        assert torch.equal(seen[0][0], adapted)
        assert torch.equal(seen[1][0], plain)
        assert not torch.equal(adapted, plain)
        handle.remove()

    def test_only_targets_are_hooked_and_factors_are_no_parameters(self, tiny_whisper: Any) -> None:
        before = dict(tiny_whisper.named_parameters())
        with lora.using(tiny_whisper, random_factors(tiny_whisper, ("decoder.fc1",), 2)) as layers:
            hooked = [m for m in tiny_whisper.modules() if m._forward_hooks]
            assert hooked == layers["decoder.fc1"]
            assert dict(tiny_whisper.named_parameters()).keys() == before.keys()

    @pytest.mark.parametrize("grad", [False, True])
    def test_factors_are_not_repeated_for_tokens(self, tiny_whisper: Any, grad: bool) -> None:
        n_utt, n_tokens, rank = 2, 50, 16
        linear = tiny_whisper.model.decoder.layers[0].fc1
        factors = random_factors(tiny_whisper, ("decoder.fc1",), n_utt, rank).map(
            lambda t: t.requires_grad_(grad)
        )
        x = torch.ones(n_utt, n_tokens, D_MODEL)
        with torch.set_grad_enabled(grad), lora.using(tiny_whisper, factors):
            with _LargestTensor() as seen:
                y = linear(x)
                if grad:
                    y.sum().backward()
        # Repeating A for every token would take n_utt * n_tokens * rank * d_in, four times y.
        assert seen.n_values <= max(y.numel(), factors["decoder.fc1"].B.numel())

    def test_one_token_takes_two_operations(self, tiny_whisper: Any) -> None:
        linear = tiny_whisper.model.decoder.layers[0].fc1
        x = torch.ones(4, 1, D_MODEL)
        with torch.inference_mode():
            with _LargestTensor() as plain:
                linear(x)
            with lora.using(tiny_whisper, random_factors(tiny_whisper, ("decoder.fc1",), 4)):
                with _LargestTensor() as adapted:
                    linear(x)
        extra = adapted.operations[len(plain.operations) :]
        assert extra == ["aten.bmm.default", "aten.baddbmm_.default"]


class _LargestTensor(TorchDispatchMode):
    """Record every operation and the size of the largest tensor one returned."""

    def __init__(self) -> None:
        super().__init__()
        self.n_values = 0
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.append(str(func))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.n_values = max(self.n_values, value.untyped_storage().nbytes() // 4)
        return out


class TestBadInput:
    @pytest.mark.parametrize("n_utt", [3, 8])
    def test_rows_that_are_no_multiple(
        self, tiny_whisper: Any, decoder_batch: tuple[Tensor, Tensor], n_utt: int
    ) -> None:
        factors = random_factors(tiny_whisper, ("decoder.fc1",), n_utt)
        with (
            pytest.raises(ShapeError, match=rf"decoder\.fc1.* 4 rows .* {n_utt} utterances"),
            lora.using(tiny_whisper, factors),
        ):
            decoder_logits(tiny_whisper, *decoder_batch)

    @pytest.mark.parametrize(
        ("n_layer", "d_in", "d_out"),
        [(3, D_MODEL, D_FF), (1, D_MODEL, D_FF), (2, 31, D_FF), (2, D_MODEL, 1)],
    )
    def test_factors_of_another_model(
        self, tiny_whisper: Any, n_layer: int, d_in: int, d_out: int
    ) -> None:
        pair = LayerFactors(torch.ones(n_layer, 2, 4, d_in), torch.ones(n_layer, 2, d_out, 4))
        factors = LoRAFactors({"decoder.fc1": pair})
        with pytest.raises(ShapeError, match=r"decoder\.fc1"), lora.using(tiny_whisper, factors):
            pass

    def test_unknown_target(self, tiny_whisper: Any) -> None:
        pair = LayerFactors(torch.ones(2, 1, 4, 32), torch.ones(2, 1, 128, 4))
        factors = LoRAFactors({"decoder.fc_1": pair})
        with (
            pytest.raises(ConfigError, match=r"mean 'decoder\.fc1'"),
            lora.merged(tiny_whisper, factors),
        ):
            pass

    def test_no_target(self, tiny_whisper: Any) -> None:
        with (
            pytest.raises(ConfigError, match="no target"),
            lora.using(tiny_whisper, LoRAFactors({})),
        ):
            pass

    def test_no_utterance(self, tiny_whisper: Any) -> None:
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 0)
        with pytest.raises(ShapeError, match="0 utterances"), lora.using(tiny_whisper, factors):
            pass

    def test_another_device(self, tiny_whisper: Any) -> None:
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 1).map(lambda t: t.to("meta"))
        with pytest.raises(ConfigError, match=r"meta.*cpu"), lora.using(tiny_whisper, factors):
            pass


class TestMerge:
    def test_delta_weight_is_scaling_b_a(self, tiny_whisper: Any) -> None:
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 3)
        pair = factors["decoder.fc1"]
        expected = factors.scaling * torch.einsum("uor,uri->uoi", pair.B[1], pair.A[1])
        delta = lora.delta_weight(factors, "decoder.fc1", 1)
        assert delta.shape == (3, D_FF, D_MODEL)
        torch.testing.assert_close(delta, expected)

    @torch.no_grad()
    def test_merged_equals_using(self, tiny_whisper: Any) -> None:
        batch = inputs(2)
        factors = random_factors(tiny_whisper, lora.TARGET_NAMES, 1)
        with lora.using(tiny_whisper, factors):
            expected = logits(tiny_whisper, batch)
        with lora.merged(tiny_whisper, factors):
            found = logits(tiny_whisper, batch)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_merged_restores_bit_for_bit(self, tiny_whisper: Any, dtype: torch.dtype) -> None:
        tiny_whisper.to(dtype)
        linear = tiny_whisper.model.decoder.layers[0].fc1
        before = {k: v.clone() for k, v in tiny_whisper.state_dict().items()}
        parameter = linear.weight
        factors = random_factors(tiny_whisper, SOME, 1)
        delta = lora.delta_weight(factors, "decoder.fc1", 0)[0]
        expected = (linear.weight.detach().float() + delta).to(dtype)
        block = lora.merged(tiny_whisper, factors)
        block.__enter__()
        assert torch.equal(linear.weight, expected)
        error = RuntimeError("stop")
        assert not block.__exit__(RuntimeError, error, None)
        assert linear.weight is parameter
        assert all(torch.equal(v, before[k]) for k, v in tiny_whisper.state_dict().items())

    def test_merging_several_utterances(self, tiny_whisper: Any) -> None:
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 2)
        with pytest.raises(ShapeError, match="2 utterances"), lora.merged(tiny_whisper, factors):
            pass

    @pytest.mark.parametrize("bad", [float("nan"), 1e38])
    def test_merge_that_is_not_finite_changes_nothing(self, tiny_whisper: Any, bad: float) -> None:
        tiny_whisper.to(torch.float16)  # 1e38 is finite in float32 and overflows in the cast
        before = {k: v.clone() for k, v in tiny_whisper.state_dict().items()}
        factors = random_factors(tiny_whisper, ("decoder.fc1",), 1)
        factors["decoder.fc1"].B[-1, 0, 0, 0] = bad
        with (
            pytest.raises(ConfigError, match=r"layer 1 .*not finite"),
            lora.merged(tiny_whisper, factors),
        ):
            pass
        assert all(torch.equal(v, before[k]) for k, v in tiny_whisper.state_dict().items())


class TestDroppingRows:
    def test_factors_follow_the_rows_that_are_left(
        self, tiny_whisper: Any, decoder_batch: tuple[Tensor, Tensor]
    ) -> None:
        states, tokens = decoder_batch
        own = random_factors(tiny_whisper, ("decoder.fc1", "decoder.cross_v_proj"), 4)
        for_all = random_factors(tiny_whisper, ("decoder.fc2",), 1, seed=7)
        with lora.using(tiny_whisper, own), lora.using(tiny_whisper, for_all):
            whole = decoder_logits(tiny_whisper, states, tokens)
            with lora.dropping_rows(4) as keep:
                assert keep is not None
                keep(torch.tensor([1, 2, 3]))
                keep(torch.tensor([0, 2]))  # of the three that were left
                left = decoder_logits(tiny_whisper, states[[1, 3]], tokens[[1, 3]])
            again = decoder_logits(tiny_whisper, states, tokens)
        torch.testing.assert_close(left, whole[[1, 3]])
        assert torch.equal(again, whole)

    def test_factors_of_several_rows_are_none_of_a_row(self, tiny_whisper: Any) -> None:
        with lora.using(tiny_whisper, random_factors(tiny_whisper, ("decoder.fc1",), 2)):
            with lora.dropping_rows(4) as keep:
                assert keep is None
        with lora.dropping_rows(4) as keep:  # nothing is adapted
            assert keep is not None
            keep(torch.tensor([0]))
