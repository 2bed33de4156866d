"""The bugs that `plant.py` plants: each a single edit that a sane person could make, most of them made before.

`source` is where the bug was seen: an issue or pull request of another system; or the paper whose formula it breaks; or
"-".
"""

from __future__ import annotations

from dataclasses import dataclass

CHECK = "check"


@dataclass(frozen=True)
class Bug:
    """One bug.

    Attributes:
        name: short and unique.
        what: what is wrong with it planted.
        source: where it was seen.
        file: that it is planted in, from the root of the tree.
        old: text that occurs in the file exactly once.
        new: what takes its place.
        caught_by: tests that are run to catch it (node ids, one of them must fail), and `CHECK` where
            `latentpad check --full` must refuse to train too.
    """

    name: str
    what: str
    source: str
    file: str
    old: str
    new: str
    caught_by: tuple[str, ...]


_ALGORITHMS = "latentpad/algorithms/"
_TRAINING = "latentpad/training/"
_PARTS, _FAMILY = "tests/algorithms/test_parts.py::", "tests/algorithms/test_family.py::"
_GRPO, _PPO = "tests/algorithms/test_grpo.py::", "tests/algorithms/test_worlds_ppo.py::"
_LEARNER, _DATA = "tests/training/test_learner.py::", "tests/training/test_rl_data.py::"
_GAPS, _ENGINE = "tests/training/test_gaps.py::", "tests/rollout/test_local.py::TestLocalEngine::"
# One row of issues each, as they were read together.
_STOPS = "compose-rl #31, OpenRLHF #238, TRL #2387, #2892, rasbt/reasoning-from-scratch #185"
_HEAT = "TRL #3029, #4159, NeMo #887, #935, prime-rl #679, ms-swift #3135"
_VALUES = "verl #50, #1758, #1850, #1960, miles #1827, rlhf-book #216"
_RESUME = "lerobot #3459, peft #746, #859, verl #3400"
_SPLIT = f"{_LEARNER}test_the_gradient_does_not_depend_on_the_split[{{'name': 'grpo'}}-False]"
_AGREE = f"{_LEARNER}test_sampler_and_learner_agree_on_logprobs[False-forbidden1-0.5]"
_STOP = f"{_LEARNER}test_the_sampled_stop_token_is_trained_and_a_cut_response_gets_none"
_SURROGATE = f"{_GRPO}test_the_ratio_is_clipped_on_the_side_that_goes_too_far"
_GROUP_STD = f"{_PARTS}test_group_scaled_divides_by_the_deviation_of_each_group"
_RESUMED = f"{_GAPS}test_a_run_that_breaks_off_goes_on_to_the_same_bits"

TOKENS = (
    Bug(
        "eos masked",
        "the stop token has no loss, so the policy never learns to stop",
        _STOPS,
        f"{_TRAINING}collate.py",
        "response_mask=torch.arange(after) < lengths.unsqueeze(1),",
        "response_mask=torch.arange(after) < lengths.unsqueeze(1) - 1,",
        (_STOP,),
    ),
    Bug(
        "mask from the pad id",
        "the mask is `!= pad` instead of made from lengths: a sampled pad, or a stop token that is pad, drops out",
        "TRL #6357, verl #535",
        f"{_TRAINING}collate.py",
        "response_mask=torch.arange(after) < lengths.unsqueeze(1),",
        "response_mask=token_ids[:, before:] != 0,",
        (f"{_GAPS}test_a_sampled_pad_token_is_a_response_token_like_any_other",),
    ),
    Bug(
        "padding attended",
        "the attention mask covers the left padding",
        "-",
        f"{_TRAINING}collate.py",
        "attention_mask[row, start:end] = 1",
        "attention_mask[row, :end] = 1",
        (f"{_LEARNER}test_positions_start_at_the_first_prompt_token", _AGREE),
    ),
    Bug(
        "positions from the padding",
        "positions count the left padding: models with learned positions see others than the sampler's",
        "-",
        f"{_TRAINING}collate.py",
        "position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0),",
        "position_ids=torch.arange(before + after).expand(shape),",
        (f"{_LEARNER}test_positions_start_at_the_first_prompt_token",),
    ),
    Bug(
        "shifted labels",
        "each token is scored by the logits after it",
        "-",
        f"{_TRAINING}forward.py",
        "logits = out.logits[:, :-1, :]",
        "logits = out.logits[:, 1:, :]",
        (_AGREE, CHECK),
    ),
    Bug(
        "temperature missed",
        "the learner's logprobs are those at temperature 1",
        _HEAT,
        f"{_TRAINING}forward.py",
        "logits = logits / temperature",
        "logits = logits / 1.0",
        (_AGREE, CHECK),
    ),
    Bug(
        "temperature twice",
        "the learner divides by the temperature twice",
        _HEAT,
        f"{_TRAINING}forward.py",
        "logits = logits / temperature",
        "logits = logits / temperature**2",
        (_AGREE, CHECK),
    ),
    Bug(
        "sampler's logprobs without temperature",
        "the sampler draws at the temperature and keeps the logprobs at 1",
        _HEAT,
        "latentpad/rollout/local.py",
        "return token, logprobs.gather(-1, token.unsqueeze(-1)).squeeze(-1)",
        "return token, logits.log_softmax(-1).gather(-1, token.unsqueeze(-1)).squeeze(-1)",
        ("tests/rollout/test_local.py::test_temperature_and_forbidden_tokens_shape_the_distribution", CHECK),
    ),
    Bug(
        "support not replayed",
        "tokens that could not be sampled keep their probability in the learner",
        "TRL #6789, prime-rl #2601",
        f"{_TRAINING}forward.py",
        "if forbidden_ids:",
        "if forbidden_ids and entropy:",
        (_AGREE, CHECK),
    ),
    Bug(
        "one stop token of several",
        "only the first of the stop tokens ends a response",
        _STOPS,
        "latentpad/rollout/local.py",
        "ended = running & torch.isin(token, stop_ids)",
        "ended = running & (token == stop_ids[0])",
        (f"{_ENGINE}test_every_stop_token_ends_a_response_and_stays_in_it",),
    ),
    Bug(
        "forced eos",
        "a response that was cut is given a stop token that was not sampled",
        _STOPS,
        "latentpad/rollout/local.py",
        "ids = [tuple(row[:end]) for row",
        "ids = [(*row[: end - 1], policy.stop_ids[0]) for row",
        (f"{_ENGINE}test_a_response_without_a_stop_token_is_cut_at_the_limit", CHECK),
    ),
    Bug(
        "dropout left on",
        "the learner's forward pass is not the sampler's",
        "-",
        "latentpad/models/policy.py",
        "module.attention_dropout = 0.0",
        "module.attention_dropout += 0.0",
        ("tests/models/test_policy.py::test_dropout_of_a_checkpoint_is_switched_off",),
    ),
    Bug(
        "hidden states off by one",
        "a value head on the trunk reads the state before the one that a token is predicted from",
        _VALUES,
        f"{_TRAINING}forward.py",
        "out.hidden_states[-1][:, -length - 1 :] if hidden else None",
        "out.hidden_states[-1][:, -length - 2 : -1] if hidden else None",
        (f"{_GAPS}test_hidden_states_are_those_that_each_token_is_predicted_from",),
    ),
    Bug(
        "critic's hidden states off by one",
        "a critic's own model is read one state too early",
        _VALUES,
        f"{_TRAINING}forward.py",
        "output_hidden_states=True).hidden_states[-1][:, -width:]",
        "output_hidden_states=True).hidden_states[-1][:, -width - 1 : -1]",
        (f"{_GAPS}test_hidden_states_are_those_that_each_token_is_predicted_from",),
    ),
    Bug(
        "prompts trained on",
        "the supervised loss covers the prompt",
        "-",
        f"{_TRAINING}supervised.py",
        "completion_only_loss=True,",
        "completion_only_loss=False,",
        ("tests/training/test_supervised.py::test_labels_are_the_response_and_its_stop_token_in_order",),
    ),
    Bug(
        "labels not shifted",
        "pretraining learns to repeat the token that it reads",
        "-",
        f"{_TRAINING}pretrain.py",
        "labels[:, 1:].flatten()",
        "labels[:, :-1].flatten()",
        ("tests/training/test_pretrain.py::test_loss_and_gradient_are_those_of_transformers",),
    ),
)

REDUCTIONS = (
    Bug(
        "mean of means",
        "the loss is averaged in each micro-batch, so the cut into micro-batches changes the gradient",
        "found in seven systems: SkyRL #925, prime-rl #583, OpenRLHF #1249, NeMo #212, verl #436, ...",
        f"{_TRAINING}reduce.py",
        "return (torch.where(batch.response_mask, loss, 0.0) * batch.weights).sum()",
        "return (torch.where(batch.response_mask, loss, 0.0) * batch.weights).sum() / batch.weights.sum()",
        (_SPLIT, CHECK),
    ),
    Bug(
        "mean of means in pretraining",
        "each micro-batch is divided by its own tokens",
        "SkyRL #1504",
        f"{_TRAINING}pretrain.py",
        "optimizer.backward(loss / targets)",
        "optimizer.backward(loss / (labels[:, 1:] >= 0).sum())",
        ("tests/training/test_pretrain.py::test_the_gradient_does_not_depend_on_the_split",),
    ),
    Bug(
        "sequence mean for token mean",
        "`aggregation: token` weighs every response the same, so tokens of long ones count less",
        "DAPO, section 3.3; Dr. GRPO",
        f"{_ALGORITHMS}__init__.py",
        "return [1 / total] * count",
        "return [1 / (count * length) for length in lengths]",
        (f"{_GRPO}test_token_weights",),
    ),
    Bug(
        "weights after dead groups are dropped",
        "a step with few live groups is as large as one with many",
        "TRL #6369 (numerator masked, denominator not), the other way round",
        f"{_TRAINING}rows.py",
        "proximal_logprobs=proximal).take(kept)",
        "proximal_logprobs=proximal).take(kept, scale=16 / len(kept or [1]))",
        (f"{_DATA}test_weights_count_the_rollouts_that_were_left_out",),
    ),
    Bug(
        "minibatches not scaled",
        "with n minibatches each optimizer step has an n-th of the gradient",
        "ms-swift #10117",
        f"{_TRAINING}rl.py",
        "return [rows.take(sorted(order[i::count]), scale=count) for i in range(count)]",
        "return [rows.take(sorted(order[i::count])) for i in range(count)]",
        (f"{_GAPS}test_a_minibatch_stands_for_the_whole_step",),
    ),
    Bug(
        "padding in the loss",
        "the loss is summed over padding too",
        "ROLL #447",
        f"{_TRAINING}reduce.py",
        "torch.where(batch.response_mask, loss, 0.0)",
        "loss",
        (f"{_GAPS}test_losses_at_padding_are_left_out_of_the_sum",),
    ),
)

ADVANTAGES = (
    Bug(
        "advantage sign",
        "what is better than its group is made less likely",
        "skillsbench #775",
        f"{_ALGORITHMS}parts.py",
        "return [reward - mean for reward in group]",
        "return [mean - reward for reward in group]",
        (f"{_PARTS}test_centred_takes_the_mean_away", CHECK),
    ),
    Bug(
        "population std",
        "the deviation of a group is taken with n instead of n - 1",
        "-",
        f"{_ALGORITHMS}parts.py",
        "scales = [stdev(group) + EPSILON for group in rewards]",
        "scales = [stdev(group) * (1 - 1 / len(group)) ** 0.5 + EPSILON for group in rewards]",
        (_GROUP_STD,),
    ),
    Bug(
        "epsilon 1e4",
        "the constant beside the deviation is 1e4 instead of 1e-4: advantages vanish",
        "skillsbench #775",
        f"{_ALGORITHMS}parts.py",
        "EPSILON = 1e-4",
        "EPSILON = 1e4",
        (_GROUP_STD,),
    ),
    Bug(
        "mean over the batch",
        "rewards are compared with those of other prompts",
        "NeMo #3635 (scores misaligned over the batch)",
        f"{_ALGORITHMS}parts.py",
        "return [[a / scale for a in centred(group)] for group, scale in zip(rewards, scales, strict=True)]",
        "flat = [r for group in rewards for r in group]\n"
        "    return [[(r - fmean(flat)) / s for r in group] for group, s in zip(rewards, scales, strict=True)]",
        (_GROUP_STD, f"{_GRPO}test_group_scale_keeps_groups_apart"),
    ),
    Bug(
        "std of one",
        "advantages are normalised by the deviation of a single token: nan",
        "-",
        f"{_ALGORITHMS}ppo.py",
        "spread = known.std() if known.numel() > 1 else 0.0",
        "spread = known.std()",
        (f"{_GAPS}test_a_single_token_is_normalised_to_nothing",),
    ),
    Bug(
        "RLOO without G / (G - 1)",
        "the baseline holds the rollout's own reward",
        "arXiv 2402.14740, eq. 8",
        f"{_ALGORITHMS}rloo.py",
        "a * len(group) / (len(group) - 1) for a in",
        "a for a in",
        (f"{_FAMILY}test_rloo_compares_with_the_others",),
    ),
    Bug(
        "Dr. GRPO divided by the deviation",
        "the bias of difficulty that it was made to remove is back",
        "arXiv 2503.20783",
        f"{_ALGORITHMS}dr_grpo.py",
        "return [centred(group) for group in rewards]",
        "return [[a / (max(group) - min(group) + 1e-4) for a in centred(group)] for group in rewards]",
        (f"{_FAMILY}test_dr_grpo_leaves_the_deviations",),
    ),
    Bug(
        "REINFORCE++ over rollouts",
        "whitening counts rollouts instead of tokens",
        "OpenRLHF and verl, by tokens",
        f"{_ALGORITHMS}reinforce_plus_plus.py",
        "mean = fmean(values, weights=tokens)",
        "mean = fmean(values)",
        (f"{_FAMILY}test_reinforce_plus_plus_counts_every_token",),
    ),
)

RATIOS = (
    Bug(
        "loss sign",
        "the optimizer climbs down the reward",
        "skillsbench #775",
        f"{_ALGORITHMS}parts.py",
        "loss = -(ratio * advantages).minimum(clipped * advantages)",
        "loss = (ratio * advantages).minimum(clipped * advantages)",
        (_SURROGATE, CHECK),
    ),
    Bug(
        "maximum for minimum",
        "clipping is optimistic: nothing holds a ratio that goes too far",
        "-",
        f"{_ALGORITHMS}parts.py",
        ".minimum(clipped * advantages)",
        ".maximum(clipped * advantages)",
        (_SURROGATE,),
    ),
    Bug(
        "clip range swapped",
        "clip_low bounds from above and clip_high from below",
        "-",
        f"{_ALGORITHMS}parts.py",
        "clipped = ratio.clamp(1 - clip_low, 1 + clip_high)",
        "clipped = ratio.clamp(1 - clip_high, 1 + clip_low)",
        (f"{_FAMILY}test_most_clip_token_by_token", _SURROGATE),
    ),
    Bug(
        "ratio inverted",
        "sampler over policy",
        "-",
        f"{_ALGORITHMS}parts.py",
        "return (logprobs - rollout_logprobs).masked_fill(~mask, 0.0).exp()",
        "return (rollout_logprobs - logprobs).masked_fill(~mask, 0.0).exp()",
        (f"{_PARTS}test_token_ratio_is_policy_over_sampler", CHECK),
    ),
    Bug(
        "ratio detached",
        "no gradient flows through the unclipped ratio",
        "-",
        f"{_ALGORITHMS}parts.py",
        "loss = -(ratio * advantages).minimum(",
        "loss = -(ratio.detach() * advantages).minimum(",
        (f"{_GRPO}test_a_clipped_token_has_no_gradient_and_others_pull_towards_their_advantage",),
    ),
    Bug(
        "ratio to itself",
        "the old logprobs are the learner's own of this very pass: the ratio is always 1, nothing is ever clipped",
        "TRL 1.16 without vLLM (the logprobs of a rollout function are not read)",
        f"{_TRAINING}learner.py",
        "rollout_logprobs=batch.rollout_logprobs.to(out.logprobs.dtype),",
        "rollout_logprobs=out.logprobs.detach(),",
        (_SPLIT,),
    ),
    Bug(
        "GSPO over the padded length",
        "the geometric mean divides by the width of the batch",
        "arXiv 2507.18071, eq. 7",
        f"{_ALGORITHMS}gspo.py",
        "mask.sum(-1, keepdim=True).clamp(min=1)",
        "mask.shape[-1]",
        (f"{_FAMILY}test_gspo_has_one_ratio_a_response", f"{_FAMILY}test_rows_alone_are_rows_together"),
    ),
    Bug(
        "CISPO without the stop of the gradient",
        "the weight is differentiated too",
        "arXiv 2506.13585, eq. 4",
        f"{_ALGORITHMS}cispo.py",
        "ratio = token_ratio(logprobs, rollout_logprobs, mask).detach()",
        "ratio = token_ratio(logprobs, rollout_logprobs, mask)",
        (f"{_FAMILY}test_cispo_bounds_the_weight_and_never_drops_a_token",),
    ),
    Bug(
        "DAPO keeps dead groups",
        "groups of equal rewards are not sampled anew",
        "arXiv 2503.14476, eq. 11",
        f"{_TRAINING}collect.py",
        "kept = groups if self.rounds == 1 else [group for group in groups if has_signal(group)]",
        "kept = groups",
        (f"{_GAPS}test_groups_without_a_signal_are_sampled_anew_until_enough_have_one",),
    ),
    Bug(
        "DAPO without a cap",
        "a step learns from more groups than the recipe says",
        "-",
        f"{_TRAINING}collect.py",
        "kept[: self.recipe.rl_section.prompts_per_step]",
        "kept",
        (f"{_GAPS}test_groups_without_a_signal_are_sampled_anew_until_enough_have_one",),
    ),
    Bug(
        "overlong penalty sign",
        "long responses are paid for",
        "arXiv 2503.14476, eq. 13",
        f"{_TRAINING}signal.py",
        "value += overlong_penalty(",
        "value -= overlong_penalty(",
        (f"{_GAPS}test_length_is_paid_for_near_the_limit",),
    ),
    Bug(
        "entropy sign",
        "the entropy bonus is a malus",
        "-",
        f"{_TRAINING}learner.py",
        "loss = loss - self.entropy_coef * out.entropy",
        "loss = loss + self.entropy_coef * out.entropy",
        (f"{_GAPS}test_the_entropy_bonus_raises_entropy",),
    ),
)

KL = (
    Bug(
        "KL twice",
        "KL stands in the reward and in the loss",
        "NeMo #2530",
        f"{_TRAINING}kl_term.py",
        'return self._control.coef if self._section is not None and self._section.place == "loss" else 0.0',
        "return self._control.coef if self._section is not None else 0.0",
        (f"{_GAPS}test_kl_stands_in_one_place",),
    ),
    Bug(
        "KL inert",
        "the weight never reaches the loss",
        "Roblox/FAI-RL #96 (`beta` never forwarded)",
        f"{_TRAINING}rl.py",
        "self.learner.step(part.batches(budget, self.world), step, self.kl.loss_coef)",
        "self.learner.step(part.batches(budget, self.world), step, 0.0)",
        (f"{_GAPS}test_kl_in_the_loss_holds_the_policy",),
    ),
    Bug(
        "KL sign in the loss",
        "the policy is pushed away from the reference",
        "-",
        f"{_TRAINING}learner.py",
        "loss = loss + kl_coef * kl_estimate(",
        "loss = loss - kl_coef * kl_estimate(",
        (f"{_GAPS}test_the_loss_of_a_step_is_its_own_and_kl_times_its_weight",),
    ),
    Bug(
        "KL sign in the reward",
        "leaving the reference is paid for",
        "-",
        f"{_TRAINING}rows.py",
        "[value - float(paid[i].sum()) for value, i in",
        "[value + float(paid[i].sum()) for value, i in",
        (f"{_GAPS}test_kl_in_the_reward_is_taken_from_each_rollout",),
    ),
    Bug(
        "KL sign in the critic's reward",
        "each token is paid for leaving the reference",
        "-",
        f"{_TRAINING}rows.py",
        "rewards[row, :length] -= paid[row]",
        "rewards[row, :length] += paid[row]",
        (f"{_GAPS}test_with_a_critic_kl_is_paid_token_by_token_and_the_reward_stands_at_the_last",),
    ),
    Bug(
        "k3 with swapped arguments",
        "the estimate is of the other divergence, with a gradient that explodes",
        "Schulman 2020",
        f"{_ALGORITHMS}parts.py",
        "difference = reference_logprobs - logprobs",
        "difference = logprobs - reference_logprobs",
        (f"{_PARTS}test_kl_estimates_of_a_token",),
    ),
    Bug(
        "reference moves",
        "the reference is a view of the policy: KL is always 0",
        "-",
        "latentpad/models/reference.py",
        "p.detach().clone()",
        "p.detach()",
        ("tests/models/test_policy.py::test_the_reference_stays_what_training_started_from",),
    ),
    Bug(
        "reference is another model",
        "KL is measured to other weights than those that training starts from (the adapter switched off)",
        "TRL #495, #3194, #3196",
        "latentpad/models/reference.py",
        "return cls(policy, snapshot(policy))",
        "return cls(policy, {name: torch.zeros_like(p) for name, p in snapshot(policy).items()})",
        (f"{_LEARNER}test_before_the_first_step_the_ratio_is_1_and_kl_is_0[1.0-False]", CHECK),
    ),
    Bug(
        "reference not taken away",
        "after the reference's pass its weights stay in the policy",
        "-",
        "latentpad/models/reference.py",
        "parameter.data = own[name]",
        "parameter.data = parameter.data",
        ("tests/models/test_policy.py::test_the_reference_stays_what_training_started_from",),
    ),
    Bug(
        "adaptive KL the wrong way",
        "the pull gets weaker while KL is above its target",
        "-",
        f"{_TRAINING}kl_control.py",
        "self.coef *= 1 + GAIN * error",
        "self.coef *= 1 - GAIN * error",
        ("tests/training/test_kl_control.py::test_one_step_by_hand",),
    ),
)

CRITIC = (
    Bug(
        "terminal value kept",
        "GAE bootstraps from the state after a stop token",
        _VALUES,
        f"{_ALGORITHMS}ppo.py",
        "kept = before(lengths, width) | (before(lengths + 1, width) & bootstrap.unsqueeze(1))",
        "kept = before(lengths + 1, width)",
        (f"{_PPO}test_what_follows_the_last_token_is_worth_nothing",),
    ),
    Bug(
        "GAE reads padding",
        "values beyond a response enter its advantages",
        "ROLL #447 (a masked value of 100 changes valid advantages)",
        f"{_ALGORITHMS}ppo.py",
        "return values.masked_fill(~kept, 0.0)",
        "return values",
        (f"{_PPO}test_what_follows_the_last_token_is_worth_nothing",),
    ),
    Bug(
        "cut responses always bootstrapped",
        "a response that was cut is worth what the critic thinks of it, whatever the recipe says",
        _VALUES,
        f"{_ALGORITHMS}ppo.py",
        "truncated & self.bootstrap_truncated",
        "truncated",
        (f"{_PPO}test_what_follows_the_last_token_is_worth_nothing",),
    ),
    Bug(
        "lambda swapped",
        "the critic's targets are made with the actor's lambda",
        "arXiv 2503.01491 (VC-PPO)",
        f"{_ALGORITHMS}ppo.py",
        "gae(paid, values, lengths, lengths.double() * 0 + self.lambda_critic)",
        "gae(paid, values, lengths, self.lambdas(lengths))",
        (f"{_PPO}test_the_critics_targets_are_monte_carlo_returns_whatever_it_says",),
    ),
    Bug(
        "returns without the value",
        "the critic learns advantages instead of returns",
        "-",
        f"{_ALGORITHMS}ppo.py",
        "lengths.double() * 0 + self.lambda_critic) + values[:, :-1]",
        "lengths.double() * 0 + self.lambda_critic)",
        (f"{_PPO}test_the_critics_targets_are_monte_carlo_returns_whatever_it_says",),
    ),
    Bug(
        "delta the wrong way round",
        "GAE takes V(t) - V(t + 1)",
        "-",
        f"{_ALGORITHMS}ppo.py",
        "(rewards + values[:, 1:] - values[:, :-1])",
        "(rewards + values[:, :-1] - values[:, 1:])",
        (f"{_PPO}test_with_the_true_values_any_lambda_climbs_the_pass_rate",),
    ),
    Bug(
        "padding whitened",
        "mean and deviation of advantages are taken over padding too",
        "-",
        f"{_ALGORITHMS}ppo.py",
        "known = advantages[inside]",
        "known = advantages.flatten()",
        (f"{_PPO}test_normalising_by_a_mean_and_a_spread_that_no_draw_moves_only_rescales",),
    ),
    Bug(
        "values off by one",
        "the value learned at a token is that of the state after it",
        _VALUES,
        f"{_TRAINING}critic.py",
        "values = found[:, :-1]",
        "values = found[:, 1:]",
        (f"{_GAPS}test_a_value_is_of_the_state_before_its_token",),
    ),
    Bug(
        "reward at the end of the row",
        "the reward of a short response stands at its padding",
        "-",
        f"{_TRAINING}rows.py",
        "rewards[row, length - 1] += value",
        "rewards[row, -1] += value",
        (f"{_GAPS}test_with_a_critic_kl_is_paid_token_by_token_and_the_reward_stands_at_the_last",),
    ),
    Bug(
        "value clip the wrong way",
        "the smaller of the two losses is taken",
        "-",
        f"{_ALGORITHMS}ppo.py",
        "return TokenLoss(loss.maximum(clipped),",
        "return TokenLoss(loss.minimum(clipped),",
        (f"{_GAPS}test_a_value_that_moved_too_far_is_held_by_the_larger_loss",),
    ),
    Bug(
        "value gradient unscaled",
        "the whole value loss reaches the shared trunk, whatever loss_coef says",
        "-",
        f"{_TRAINING}critic.py",
        "return fixed + coef * (hidden - fixed) if coef else fixed",
        "return hidden if coef else fixed",
        (f"{_GAPS}test_loss_coef_is_what_the_trunk_feels_of_the_value_loss",),
    ),
)

LOOP = (
    Bug(
        "gradients not cleared",
        "the gradient of every step holds those of all before it",
        "-",
        f"{_TRAINING}processes/replicated.py",
        "optimizer.zero_grad(set_to_none=True)",
        "optimizer.zero_grad",
        (f"{_GAPS}test_a_step_clears_its_gradients",),
    ),
    Bug(
        "broken gradient stepped",
        "a gradient that is not a number is applied",
        "-",
        f"{_TRAINING}processes/replicated.py",
        "if not math.isfinite(norm):",
        "if norm is None:",
        (f"{_LEARNER}test_a_gradient_that_is_not_finite_is_refused_and_changes_no_weight",),
    ),
    Bug(
        "schedule restarted",
        "a resumed run counts its steps, and so its learning rate and its data, from 0 again",
        "verl #7816, #3126, open-instruct #1823",
        f"{_TRAINING}state.py",
        'self.step, self.roll_backs = state["step"], state["roll_backs"]',
        'self.step, self.roll_backs = 0, state["roll_backs"]',
        (_RESUMED,),
    ),
    Bug(
        "weights not restored",
        "a resumed run trains a fresh adapter",
        _RESUME,
        f"{_TRAINING}state.py",
        'parameter.copy_(state["weights"][name])',
        "parameter.copy_(parameter.detach())",
        (_RESUMED,),
    ),
    Bug(
        "optimizer not restored",
        "moments start from 0 after a resume",
        _RESUME,
        f"{_TRAINING}state.py",
        'self._optimizer.load(state["optimizer"])',
        'self._optimizer.load(self._optimizer.state() or state["optimizer"])',
        (_RESUMED,),
    ),
    Bug(
        "critic not restored",
        "after a resume the values are those of an untrained critic",
        "-",
        f"{_TRAINING}state.py",
        'part.load(state["parts"][name])',
        'part.load(state["parts"][name] if name != "critic" else part.state())',
        (_RESUMED,),
    ),
    Bug(
        "KL weight not restored",
        "an adaptive weight starts anew after a resume",
        "-",
        f"{_TRAINING}kl_term.py",
        'self._control.load(state["control"])',
        "self._control.load(self._control.state())",
        (_RESUMED,),
    ),
    Bug(
        "torn checkpoint accepted",
        "files are not compared with their hashes",
        "-",
        f"{_TRAINING}checkpoint.py",
        "if not (checkpoint / name).is_file() or _sha256(checkpoint / name) != digest:",
        "if not (checkpoint / name).is_file():",
        ("tests/training/test_checkpoint.py::test_a_damaged_checkpoint_is_refused_in_one_line",),
    ),
    Bug(
        "stale adapter",
        "the engine samples from a copy of the policy that is never updated",
        "verl #7495 (two months lost), AReaL #1385",
        "latentpad/rollout/local.py",
        "self._policy = policy\n        self._chunk_size",
        'self._policy = __import__("copy").deepcopy(policy)\n        self._chunk_size',
        (f"{_GAPS}test_the_engine_samples_from_the_weights_as_they_are_now", CHECK),
    ),
    Bug(
        "one seed a group",
        "all responses of a group are drawn with the same noise: they are equal, and teach nothing",
        "-",
        f"{_TRAINING}collect.py",
        "step, place, problem.id, sample)",
        "step, place, problem.id)",
        (f"{_DATA}test_every_rollout_has_a_seed_of_its_own_that_names_what_it_draws",),
    ),
    Bug(
        "trained on the test set",
        "training problems are drawn from another split",
        "arXiv 2506.10947 (contamination)",
        f"{_TRAINING}collect.py",
        'task.draw("train", cell,',
        'task.draw("test", cell,',
        (f"{_DATA}test_the_problems_of_a_step_are_the_same_in_every_arm_and_new_in_every_step_and_seed",),
    ),
    Bug(
        "random control not random",
        "`signal: random` deals every reward to its own rollout",
        "arXiv 2506.10947 (spurious rewards)",
        f"{_TRAINING}signal.py",
        'rng_of("random signal", recipe.seed, step).shuffle(flat)',
        'rng_of("random signal", recipe.seed, step)',
        (f"{_DATA}test_the_random_signal_deals_out_the_same_rewards_always_the_same_way",),
    ),
    Bug(
        "ladder climbs on easy cells",
        "rollouts at any rung count for the frontier",
        "-",
        f"{_TRAINING}ladder.py",
        "[int(right) for cell, right in rates if cell == frontier]",
        "[int(right) for cell, right in rates if cell]",
        ("tests/training/test_ladder.py::test_rollouts_at_other_rungs_do_not_count",),
    ),
)

REWARDS = (
    Bug(
        "truncated graded as right",
        "a response that was cut is paid if it holds the answer",
        "-",
        "reward/grade.py",
        "if truncated:",
        "if truncated and extract_answer(response, rule=extraction) is None:",
        ("tests/training/test_episodes.py::test_a_response_that_was_cut_earns_nothing_whatever_it_says",),
    ),
    Bug(
        "reward sees the scratchpad",
        "an answer inside a scratchpad that was never closed is paid",
        "Roblox/FAI-RL #96 (rewards that look at the scratchpad are farmed)",
        "reward/extract.py",
        "    if open_tag in text:\n        return None\n",
        "    text = text.rpartition(open_tag)[2]\n",
        (
            "tests/training/test_episodes.py::test_the_answer_is_what_stands_after_the_last_closing_tag",
            "tests/reward/test_extract.py::test_no_answer_where_nothing_follows_or_a_scratchpad_stays_open",
        ),
    ),
    Bug(
        "first closing tag",
        "what follows the first closing tag is the answer, so a scratchpad can hold a second one",
        "NeMo #3058 (first character taken as the answer)",
        "reward/extract.py",
        "_, closed, after = response.rpartition(close_tag)\n    text",
        "_, closed, after = response.partition(close_tag)\n    text",
        ("tests/training/test_episodes.py::test_the_answer_is_what_stands_after_the_last_closing_tag",),
    ),
    Bug(
        "broken grader learned from",
        "groups in which the grader broke are kept, with a 0 in its place",
        "open-r1 #658 (a time-out inside the verifier)",
        f"{_TRAINING}collect.py",
        "kept = [g for g in groups if all(e.reward.outcome is not Outcome.GRADER_FAILED for e in g.episodes)]",
        "kept = list(groups)",
        (f"{_DATA}test_a_group_in_which_the_grader_broke_is_not_learned_from",),
    ),
    Bug(
        "broken grader counts as wrong",
        "an exception of the grader is a wrong answer, and nobody is told",
        "cookbook #335, open-r1 #55 (the other way round)",
        "reward/grade.py",
        "return Reward.of(Outcome.GRADER_FAILED, line[:MAX_DETAIL])",
        "return Reward.of(Outcome.WRONG, line[:MAX_DETAIL])",
        (f"{_DATA}test_the_share_of_broken_verdicts_is_a_metric",),
    ),
    Bug(
        "stop token cut from every text",
        "the last token of a response is left out even where it is no stop token",
        "-",
        f"{_TRAINING}episodes.py",
        "rollout.token_ids[:-1] if rollout.finish_reason is FinishReason.STOP else rollout.token_ids",
        "rollout.token_ids[:-1]",
        ("tests/training/test_episodes.py::test_the_stop_token_and_only_it_is_left_out_of_the_text",),
    ),
)

_VOTES = "tests/training/test_signal.py::"

EVIDENCE = (
    Bug(
        "vote knows the answer",
        "a ladder that climbs by votes asks the grader",
        "-",
        f"{_TRAINING}signal.py",
        'if recipe.rl_section.signal == "vote":',
        'if recipe.rl_section.signal == "votes":',
        (f"{_VOTES}test_with_a_vote_the_gold_answer_decides_nothing",),
    ),
    Bug(
        "silence agrees",
        "where nobody answers, all agree and are paid",
        "-",
        f"{_TRAINING}signal.py",
        "answer is not None and answer == winner",
        "answer == winner",
        (f"{_VOTES}test_a_vote_goes_by_the_answer_given_most_often_right_or_not",),
    ),
    Bug(
        "worked beyond its cells",
        "scratchpads are shown for every cell, so that no length is out of distribution",
        "-",
        f"{_TRAINING}corpus.py",
        "(section.worked_cells or section.cells) if worked else section.cells",
        "section.cells",
        ("tests/training/test_pretrain.py::test_each_kind_of_document_comes_from_the_cells_that_it_may_show",),
    ),
    Bug(
        "one try k times",
        "all k responses of pass@k have one seed",
        "-",
        "latentpad/evaluation/evaluate.py",
        "times[problem.id] += 1",
        "times[problem.id] = 0",
        (
            "tests/evaluation/test_pass_at_k.py::test_pass_at_k_is_a_further_decoding_and_leaves_the_others_as_they_were",
        ),
    ),
    Bug(
        "positions the wrong way round",
        "`nope_layers` are the ones that keep their positions",
        "transformers: SmolLM3's `no_rope_layers` holds 1 for a layer that has them",
        "latentpad/models/policy.py",
        "int(layer not in bare)",
        "int(layer in bare)",
        (
            "tests/models/test_policy.py::"
            "test_layers_without_positions_stay_so_on_disk_and_do_not_see_where_a_token_stands",
        ),
    ),
    Bug(
        "carry forgotten",
        "the columns of a hinted addition do not add the carry",
        "-",
        "latentpad/tasks/addition_hints.py",
        "total = int(a) + int(b) + carry",
        "total = int(a) + int(b)",
        ("tests/tasks/test_addition.py::test_columns_carry_worked_by_hand",),
    ),
)

_SAME = "tests/distributed/test_same_numbers.py::test_two_processes_do_what_one_does"
_TOGETHER = "tests/distributed/test_resume_together.py::test_killed_and_started_again_it_ends_in_the_same_bits"
_STOP_ALL = "tests/distributed/test_faults.py::test_told_to_stop_one_or_all_leave_a_checkpoint_together"
_MEANS = "SkyRL #925, prime-rl #583, OpenRLHF #1249, NeMo #3791, ms-swift #10117"

PROCESSES = (
    Bug(
        "gradients averaged over processes",
        "a process with few live rows counts as much as one with many",
        _MEANS,
        f"{_TRAINING}processes/world.py",
        "torch.distributed.all_reduce(flat)",
        "torch.distributed.all_reduce(flat), flat.div_(torch.distributed.get_world_size())",
        (f"{_SAME}[grpo-replicated]",),
    ),
    Bug(
        "DeepSpeed's mean taken for a sum",
        "under ZeRO gradients are too small by the number of processes",
        _MEANS,
        f"{_TRAINING}processes/zero.py",
        "self._engine.backward(loss * self._strategy.world.size)",
        "self._engine.backward(loss)",
        (f"{_SAME}[grpo-zero-2]",),
    ),
    Bug(
        "every process learns from the same rows",
        "a row is learned from twice, another one never",
        "-",
        f"{_TRAINING}collate.py",
        "order[first::size] for first in range(size)",
        "order[0 * first :: size] for first in range(size)",
        (f"{_SAME}[grpo-replicated]",),
    ),
    Bug(
        "waiting process learns",
        "a micro-batch that only keeps others company has a gradient",
        "-",
        f"{_TRAINING}collate.py",
        "response_mask=torch.zeros_like(batch.response_mask)",
        "response_mask=batch.response_mask",
        ("tests/training/test_world.py::test_a_process_that_waits_learns_nothing",),
    ),
    Bug(
        "rollouts from before the last step",
        "under ZeRO-3 the whole copy does not follow the shards",
        "verl #7495",
        f"{_TRAINING}processes/zero.py",
        "raise diverged(norm, step)\n        self._refresh()",
        "raise diverged(norm, step)",
        (f"{_SAME}[grpo-zero-3]",),
    ),
    Bug(
        "shards not restored",
        "after a resume ZeRO's moments start from 0",
        _RESUME,
        f"{_TRAINING}state.py",
        "piece.restore(folder)",
        "str(piece)",
        (f"{_TOGETHER}[zero-2-ppo]",),
    ),
    Bug(
        "metrics of one process",
        "what is logged is of rank 0's rows alone",
        "-",
        f"{_TRAINING}learner.py",
        "parts = self.world.gather((loss_sum, tokens, sums, torch.cat(log_ratios)))",
        "parts = [(loss_sum, tokens, sums, torch.cat(log_ratios))]",
        (f"{_SAME}[grpo-replicated]",),
    ),
    Bug(
        "one process stops",
        "a stop is heard by one process, and the others wait for it",
        "-",
        f"{_TRAINING}state.py",
        "self._world.any(stop.requested)",
        "stop.requested",
        (f"{_STOP_ALL}[15-told_to1-replicated]",),
    ),
    Bug(
        "DeepSpeed dropped in silence",
        "accelerate believes in one process where there are two, or does without DeepSpeed",
        "accelerate 1.15 on a CPU",
        f"{_TRAINING}processes/trainer_deepspeed.py",
        'return "gloo", DistributedType.MULTI_CPU',
        "return found, kind",
        (f"{_SAME}[supervised-zero-2]",),
    ),
    Bug(
        "chunks one token late",
        "in a large vocabulary a token is scored by what comes after it",
        "-",
        f"{_TRAINING}chunked_head.py",
        "rows = hidden[:, -length - 1 : -1][mask]",
        "rows = hidden[:, -length:][mask]",
        ("tests/training/test_forward_chunks.py::test_chunks_give_the_same_in_single_precision",),
    ),
)

BUGS = TOKENS + REDUCTIONS + ADVANTAGES + RATIOS + KL + CRITIC + LOOP + REWARDS + EVIDENCE + PROCESSES
