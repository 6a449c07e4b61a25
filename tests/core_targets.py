"""The code of the core that is broken on purpose, and the tests that are to notice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core_mutants import ROOT, Mutant, mutants, sample, written

CORE = ROOT / "cloudq"
# Mutants of a module that are tried, unless all are asked for.
PER_MODULE = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A break that is written down: `old` is a text of the module, `new` what stands there then."""

    module: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreTarget:
    """Some modules, and the tests that are to notice that one of them is broken.

    `excused` says of mutants why nothing can notice them: they do the same as the code. `known` are
    a few mutants, each with the test that notices it: these are tried with each change of the code.
    """

    name: str
    modules: tuple[str, ...]
    tests: str
    select: str = ""  # as for pytest's -k
    quick: bool = True  # no server, no process, nothing slow
    written: Mapping[str, Written] = field(default_factory=dict[str, Written])
    excused: Mapping[str, str] = field(default_factory=dict[str, str])
    known: Mapping[str, str] = field(default_factory=dict[str, str])

    def files(self) -> list[Path]:
        """Return the files that are broken."""
        named = (*self.modules, *(each.module for each in self.written.values()))
        return [CORE / f"{module}.py" for module in dict.fromkeys(named)]


_ASKED = "a call asks for one retry at most"
_ENDS = "threads that end are not waited for so long"
_JUST_SO_LONG = "what is of just that length is looked at, and left as it is"
_LEVEL = "what is compressed, and how well, is the same to its reader"
_THAT_MOMENT = "nobody looks at that very moment"
_DEGREE = "the next degree of compression saves little, and takes longer"
_FIRST = "the first delivery of a message is its number 1"
_LARGER = "every record takes many bytes"
_ANY = "any message of a tray will do: they differ in nothing but their arguments"

LIFE: Mapping[str, Written] = {
    "acks before it records": Written(
        module="execution/consume",
        old="        batch = self._committed(pairs)\n        tries = 1",
        new="        batch = dispose(pairs, self.broker) and None or self._committed(pairs)\n"
        "        tries = 1",
    ),
    "sends no copy for the next try": Written(
        module="execution/settlement",
        old="        return (*started, self.resend) if self.resend is not None else started",
        new="        return started",
    ),
    "writes what it cannot fence": Written(
        module="execution/commit",
        old="        return settlement.fenced or record is not None\n",
        new="        return False\n",
    ),
    "writes over an end": Written(
        module="results/changes",
        old="            *_not_ended(),\n        ),\n    )\n\n\ndef claim_of",
        new="            *(),\n        ),\n    )\n\n\ndef claim_of",
    ),
    "lets an earlier delivery write": Written(
        module="results/changes",
        old="op=Op.LE, value=record.fence, or_absent=True),",
        new="op=Op.LE, value=1 << 60, or_absent=True),",
    ),
    "runs what has ended": Written(
        module="execution/admission",
        old="(record.terminal or record.retries > message.retries):",
        new="record.retries > message.retries:",
    ),
    "acks what is not recorded": Written(
        module="execution/commit",
        old="        batch.fail(settled, error)\n        return\n    batch.ready = settled\n",
        new="        failures = {}\n        error.args\n    batch.ready = settled\n",
    ),
    "acks what the store refused": Written(
        module="execution/commit",
        old="        _take_back(batch, owners, failures)\n",
        new="        pass\n",
    ),
    "forgets what could not be sent": Written(
        module="execution/outgoing",
        old="        batch.fail(unsent, error)\n    batch.ready = [_w",
        new="        pass\n    batch.ready = [_w",
    ),
    "reopens what others have ended": Written(
        module="execution/unstarted",
        old="    if sent is None or ended is None or sent > ended:\n",
        new="    if True:\n",
    ),
    "lets go of the rest of a bundle": Written(
        module="execution/bundles",
        old="                self._send_rest(broker)\n",
        new="                pass\n",
    ),
    "settles a bundle with its first call": Written(
        module="execution/bundles",
        old="[part.number] = settlement\n            return not self._left",
        new="[part.number] = settlement\n            return True",
    ),
}

TARGETS = (
    CoreTarget(
        name="life",
        modules=(),
        written=LIFE,
        known=dict.fromkeys(
            LIFE,
            "execution/test_delivery_model.py::"
            "test_no_delivery_is_lost_and_no_end_changes_whatever_goes_wrong[memory]",
        ),
        tests="execution/test_delivery_model.py",
        quick=False,
    ),
    CoreTarget(
        name="executor",
        modules=(
            "execution/executor",
            "execution/outcomes",
            "execution/settlement",
            "execution/commit",
            "execution/consume",
            "execution/admission",
            "execution/unstarted",
            "execution/outgoing",
            "execution/leaving",
            "execution/sharing",
            "execution/spoiled",
            "execution/raised",
        ),
        known={
            "execution.unstarted.already_buried: return None at once": (
                "execution/test_execution.py::"
                "test_a_worker_that_stood_still_before_a_burial_does_not_run_the_task_again"
            ),
            "execution.unstarted.already_done: no frees in replace": (
                "execution/test_retries.py::"
                "test_a_redelivery_of_what_was_retried_leaves_the_payload_to_its_next_try"
            ),
        },
        tests="execution/test_execution.py execution/test_retries.py"
        " execution/test_running.py execution/test_one_message.py"
        " execution/test_lost_claims.py execution/test_revocations.py"
        " execution/test_given_ids.py execution/test_bundled_calls.py"
        " execution/test_idempotency.py execution/test_task_life.py"
        " execution/test_queue_rules.py canvas/test_crashes.py"
        " canvas/test_canvas.py results/test_series.py"
        " execution/test_settlements.py execution/test_at_once.py execution/test_plain_bundles.py"
        " execution/test_commits.py execution/test_consumer.py"
        " execution/test_run_ends.py execution/test_opening.py messages/test_data_keys.py"
        " execution/test_large_arguments.py"
        " tasks/test_checkpoints.py tasks/limits/test_unique.py"
        " tasks/limits/test_concurrency.py canvas/test_lost_answers.py",
        excused={
            "execution.leaving.leave_joins: swap leaving.append(pair) and "
            "results.append(settlement.member_result)": "the lists know nothing of each other",
            "execution.leaving._left: negate billed": "it says how many are left at a time",
            "execution.executor.Executor._attempt: 0 as -1": _ASKED,
            "execution.executor.Executor._attempt: 0 as -1 #2": _ASKED,
            "execution.executor.Executor._attempt: 0 as -1 #3": _ASKED,
            "execution.executor.Executor._attempt: "
            "len(text) > NEVER_LARGE as len(text) >= NEVER_LARGE": _JUST_SO_LONG,
            "execution.sharing.add_to_series: True as False #2": "there is an answer for each",
            "execution.admission.Admission._claiming: True as False": "there is a verdict for each",
            "execution.sharing.add_to_bundle: 0 as -1": "all of these are calls of one bundle",
            "execution.commit._events: drop continue #2": (
                "no event is made of what is not told: this saves the look at its message"
            ),
        },
    ),
    CoreTarget(
        name="joins",
        modules=("canvas/joins", "canvas/join_items", "canvas/slots"),
        known={
            "canvas.joins.Joins._start: return None at once": (
                "canvas/test_canvas.py::test_a_redelivered_member_counts_once"
            ),
            "canvas.joins.Joins._failed: return None at once": (
                "canvas/test_canvas.py::test_a_failed_member_fails_the_body_at_once"
            ),
        },
        tests="canvas/test_counted_joins.py canvas/test_counted_once.py"
        " canvas/test_join_items.py canvas/test_tree.py execution/test_commits.py"
        " canvas/test_crashes.py canvas/test_lost_answers.py"
        " canvas/test_canvas.py canvas/test_callbacks_everywhere.py"
        " canvas/test_signed_store.py canvas/test_unrunnable_members.py"
        " canvas/test_values_of_many.py",
    ),
    CoreTarget(
        name="leases",
        modules=("worker/leases", "results/changes", "results/call_marks"),
        known={
            "results.changes._not_ended: return [] at once": (
                "results/test_results.py::test_an_end_stands_even_against_a_later_delivery"
            ),
            "results.changes.advance: drop own.append(_NO_MARK)": (
                "execution/test_revocations.py::"
                "test_what_a_task_records_after_it_was_revoked_does_not_make_that_forgotten"
            ),
        },
        tests="results/test_results.py execution/test_execution.py"
        " execution/test_given_ids.py execution/test_revocations.py"
        " worker/test_flow.py worker/test_leases.py execution/test_idempotency.py",
        excused={
            **dict.fromkeys(
                (
                    f"worker.leases.Leases.__init__: {n}"
                    for n in ("1 as 0", "1 as 2", "2 as 1", "2 as 3")
                ),
                "the name of a thread",
            ),
            "worker.leases.Leases.stop: 5.0 as 4.0": _ENDS,
            "worker.leases.Leases.stop: 5.0 as 6.0": _ENDS,
            "worker.leases.Leases.hold: 0 as -1": "what is received together is of one queue",
            "worker.leases.Leases._run: 12 as 11": "it looks a little less often",
            "worker.leases.Leases._run: 12 as 13": "it looks a little more often",
            "worker.leases.Leases._extend: flight.lease_ends < answered as "
            "flight.lease_ends <= answered": "no answer comes at that very moment",
            "worker.leases.Leases._due: given >= lengths[queue] as given > lengths[queue]": (
                "both of them say the same of a lease of just that length"
            ),
            "worker.leases.Leases._due: flight.lease_ends < due_by[queue] as "
            "flight.lease_ends <= due_by[queue]": _THAT_MOMENT,
            "worker.leases.Leases._due: flight.lease_ends < now + given * 2 / 3 - _margin(given) "
            "as flight.lease_ends <= now + given * 2 / 3 - _margin(given)": _THAT_MOMENT,
            "results.call_marks.Marks.__init__: 0 as -1": "no clock shows such a time",
            "results.call_marks.Marks.__init__: 0 as 1": "no clock shows such a time",
            "results.call_marks.Marks.__init__: swap self._renew() and "
            "renew_after_fork(self, Marks._renew)": "nobody has the object before both are done",
            "results.call_marks._time: 0.0 as -1.0": "nothing has ended at such a time",
        },
    ),
    CoreTarget(
        name="bundles",
        modules=(
            "messages/bundle",
            "execution/bundles",
            "execution/plain_bundles",
            "results/bundles",
            "results/bundle_item",
            "results/shared_items",
            "worker/in_flight",
        ),
        known={
            "execution.bundles.dispose_parts: drop done.refused += _bury(settled, broker)": (
                "execution/test_bundled_calls.py::test_a_dead_letter_of_one_is_retried_alone"
            ),
            "messages.bundle.read_bundle: negate len(body) > limit": (
                "execution/test_bundled_calls.py::test_a_retry_counts_and_keeps_its_id"
            ),
        },
        excused={
            "messages.bundle.write_bundle: 0 as -1 #2": "all have the name of their bundle",
            "messages.bundle.write_bundle: True as False": "there is a row for each",
            "messages.bundle._Reader.plain_calls: 0 as -1 #2": (
                "where all have nothing but arguments of their own, any shows what they share"
            ),
            "messages.bundle._Reader._plain: 0 as -1": "there is one",
            "messages.bundle._Reader._plain: return None at once": (
                "the call is read the same by `_message`, and slower"
            ),
            "results.bundles.BundleStore._put_apart: "
            "sum(sizes.values()) <= room as sum(sizes.values()) < room": (
                "of ends that fill the room exactly what follows takes none out"
            ),
            "results.bundles.BundleStore.add: 0 as 1": _LARGER,
            "results.bundles.BundleStore.add: 0 as -1": _LARGER,
            "execution.plain_bundles.PlainBundles._plain: 0 as 1": _ANY,
            "execution.plain_bundles.PlainBundles._plain: 0 as -1": _ANY,
            "results.bundle_item._read_part: swap found.apart.add(number) and "
            "found.records.pop(number, None)": "the two know nothing of each other",
            "results.bundle_item.part_of: 1 as 2": _DEGREE,
            "results.bundle_item.plain_part: 1 as 2": _DEGREE,
            "results.bundle_item.Delivered.is_late: 0 as 1": _FIRST,
            "results.bundle_item.Delivered.is_late: 0 as -1": _FIRST,
            "results.bundle_item.part_of: 0 as -1": "what all have, the last has as well",
            "execution.bundles.Parcel.end: True as False": "there is a word on each that goes back",
            "execution.bundles.bury: True as False": "there is a copy of each call",
            "worker.in_flight.Tray.message: 0 as 1": _ANY,
            "worker.in_flight.Tray.message: 0 as -1": _ANY,
            "worker.in_flight.Tray.pairs: True as False #2": "there is a flight for each end",
        },
        tests="messages/test_bundle.py messages/test_forged_bundles.py"
        " execution/test_bundled_calls.py execution/test_plain_bundles.py"
        " execution/test_parcels.py"
        " results/test_bundles.py results/test_bundle_item.py results/test_later_ends.py"
        " worker/test_trays.py worker/test_in_flight.py worker/test_flow.py",
    ),
    CoreTarget(
        name="blobs",
        modules=(
            "messages/payloads",
            "messages/payload_places",
            "broker/claim_check",
            "results/large",
            "execution/large_results",
        ),
        excused={
            "broker.claim_check.ClaimCheck.encode: "
            "len(body) <= NEVER_LARGE as len(body) < NEVER_LARGE": _JUST_SO_LONG,
            "broker.claim_check.ClaimCheck.fit: excess <= 0 as excess < 0": _JUST_SO_LONG,
            "broker.claim_check.ClaimCheck.fit: 0 as -1": _JUST_SO_LONG,
            "broker.claim_check.ClaimCheck.fit: "
            "len(small) >= len(body) as len(small) > len(body)": (
                "of two bodies of one length either is as good"
            ),
            "execution.large_results.put_away: 4 as 5": "more are looked at, and none is stored",
            "execution.large_results.put_away: "
            "len(text) <= (_SMALL if over is None else min(_SMALL, ove... as "
            "len(text) < (_SMALL if over is None else min(_SMALL, over...": _JUST_SO_LONG,
            "results.large.LargeValues.put_away: len(text) * 4 <= most as len(text) * 4 < most": (
                _JUST_SO_LONG
            ),
            "results.large.LargeValues.put_away: 4 as 5": "more are counted, and none is stored",
            "results.large.LargeValues.load: tag in text as tag not in text": (
                "a text has one tag at most, and one without any is read the same"
            ),
        },
        known={
            "messages.payloads.Payloads.check_size: return None at once": (
                "messages/test_payloads.py::test_a_claim_to_too_much_is_refused_before_it_is_read"
            ),
            "messages.payloads.Payloads.parts: "
            "negate length != size or hashed.hexdigest() != sha256": (
                "messages/test_payloads.py::test_what_is_not_what_was_stored_is_refused"
            ),
        },
        tests="messages/test_payloads.py messages/test_payload_requests.py"
        " execution/test_large_arguments.py"
        " messages/test_sealed_payloads.py broker/test_claim_check.py results/test_large.py"
        " execution/test_retries.py results/test_results.py",
    ),
    CoreTarget(
        name="keys",
        quick=False,
        excused={
            "messages.data_keys.DataKeys.close: swap self._making.clear() and "
            "self._opened.clear()": "the two know nothing of each other",
            "messages.data_keys.DataKeys.current: 0 as -1": "where no number is, no data key is",
            "messages.sealed_payloads.Sealing.seek: self._at < offset as self._at <= offset": (
                "to read no bytes is the end of it, too"
            ),
            "results.sealing.Sealing._sealed_part: 1 as 2": _LEVEL,
            "results.sealing.Sealing._sealed_part: 1 as 2 #2": _LEVEL,
            "results.sealing.Sealing._opened_part: 1 as 2 #3": _LEVEL,
            "results.sealing.Sealing._opened_part: 1 as 0 #3": _LEVEL,
        },
        modules=(
            "messages/encryption",
            "messages/data_keys",
            "messages/envelope",
            "messages/sealed_payloads",
            "messages/sealed_text",
            "results/sealing",
        ),
        known={
            "messages.encryption.header_of: negate len(header) > _LONGEST_HEADER": (
                "messages/test_encryption.py::test_rotation"
            ),
            "messages.encryption.Encryption._keys: drop raise DecodeError(unknown_key(name))": (
                "messages/test_encryption.py::test_an_unknown_key"
            ),
        },
        tests="messages/test_encryption.py messages/test_sealed_payloads.py"
        " messages/test_codec.py messages/test_formats.py messages/test_data_keys.py"
        " execution/test_encrypted.py results/test_sealed_store.py results/test_sealed_parts.py",
    ),
)


def by_name(name: str) -> CoreTarget:
    """Return the target of that name; `core` has what is known of all."""
    return CORE_OF_ALL if name == CORE_OF_ALL.name else next(t for t in TARGETS if t.name == name)


CORE_OF_ALL = CoreTarget(
    name="core",
    modules=tuple(module for target in TARGETS for module in target.modules),
    tests=" ".join(
        {test.partition("::")[0]: "" for t in TARGETS if t.modules for test in t.known.values()}
    ),
    known={name: test for t in TARGETS if t.modules for name, test in t.known.items()},
)


def all_of(target: CoreTarget) -> list[list[Mutant]]:
    """Return every mutant of a target, by its modules."""
    lots = [mutants(CORE / f"{module}.py") for module in target.modules]
    named = target.written.items()
    lots.append([written(CORE / f"{w.module}.py", name, w.old, w.new) for name, w in named])
    return [lot for lot in lots if lot]


def chosen(
    target: CoreTarget, *, seed: int, count: int | None, only: str, excused: bool = False
) -> list[Mutant]:
    """Choose the mutants of a target that are to be tried: those whose names have `only` in them.

    Up to `count` of each module, without those that are excused.
    """
    return [
        mutant
        for lot in all_of(target)
        if (
            left := [m for m in lot if only in m.name and (excused or m.name not in target.excused)]
        )
        for mutant in sample(left, count, seed=seed)
    ]
