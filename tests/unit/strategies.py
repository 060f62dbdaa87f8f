"""Hypothesis strategies for valid commands."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from kvstore.commands import (
    Append,
    Cas,
    Clear,
    Command,
    Condition,
    Copy,
    Count,
    Delete,
    Exists,
    Expire,
    Get,
    GetDelete,
    GetExpire,
    Incr,
    IncrFloat,
    Persist,
    Push,
    Rename,
    Scan,
    Set,
    SetMany,
    SetRange,
    Simple,
    Tick,
    Ttl,
    Txn,
    Value,
    Walk,
)
from kvstore.limits import MAX_TTL
from kvstore.values import from_json

AWKWARD = ["if", "then", "else", "and", "NX", "EX", "=", "a=b", "{", "}", ";", "\\", "'", '"', " ", "#x", "-1", "txn"]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
awkward = st.sampled_from(AWKWARD)
keys = st.one_of(
    st.sampled_from([b"a", b"b", b"user:1"]),
    awkward.map(str.encode),
    texts.filter(bool).map(str.encode),
    st.binary(min_size=1, max_size=12),
)
json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
).map(lambda value: json.dumps(value).encode())
json_values = json_texts.map(from_json)
plain_values = st.one_of(awkward.map(str.encode), texts.map(str.encode), st.binary(max_size=12)).map(Value)
values = plain_values | json_values
# Two values of one command are written in one form; bytes that are no text have no JSON form.
pairs = st.tuples(plain_values, plain_values) | st.tuples(json_values, json_values)
conditions = st.one_of(
    st.builds(Condition, st.just("value"), keys, st.sampled_from(["=", "!="]), values),
    st.builds(
        Condition,
        st.sampled_from(["version", "slot"]),
        keys,
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.none(),
        st.integers(0, 2**63 - 1),
    ),
)
times = st.integers(1, 2**53 - 1)
numbers = st.decimals(allow_nan=False, allow_infinity=False, min_value=-1000, max_value=1000, places=3)
expiry_conditions = st.sampled_from(["", "nx", "xx", "gt", "lt", "xx lt"])


def simple_of(
    keys: st.SearchStrategy[bytes], values: st.SearchStrategy[Value]
) -> dict[type, st.SearchStrategy[Simple]]:
    """Every command but transactions and ticks, by its type, on keys and values of these."""
    prefixes = st.one_of(st.just(b""), keys)
    return {
        Get: st.builds(Get, keys),
        GetDelete: st.builds(GetDelete, keys),
        GetExpire: st.one_of(
            st.builds(GetExpire, keys),
            st.builds(GetExpire, keys, ttl=st.integers(1, MAX_TTL)),
            st.builds(GetExpire, keys, expires=times),
            st.builds(GetExpire, keys, persist=st.just(True)),
        ),
        IncrFloat: st.builds(IncrFloat, keys, numbers.map(lambda number: str(number).encode())),
        SetRange: st.builds(SetRange, keys, st.integers(0, 20), st.binary(max_size=12)),
        Walk: st.builds(Walk, prefixes, st.integers(0, 5), st.just(b"*") | prefixes, st.integers(0, 3)),
        Rename: st.builds(Rename, keys, keys, st.booleans()),
        Copy: st.builds(Copy, keys, keys, st.booleans()),
        Clear: st.just(Clear()),
        Delete: st.builds(Delete, st.lists(keys, min_size=1, max_size=3)),
        Exists: st.builds(Exists, st.lists(keys, min_size=1, max_size=3)),
        Incr: st.builds(Incr, keys, st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9)),
        Append: st.builds(Append, keys, st.binary(max_size=12)),
        Push: st.builds(Push, keys, values),
        Scan: st.builds(Scan, prefixes, st.integers(0, 2**63 - 1)),
        Count: st.builds(Count, prefixes),
        Expire: st.one_of(
            st.builds(Expire, keys, st.integers(-MAX_TTL, MAX_TTL), when=expiry_conditions),
            st.builds(Expire, keys, st.just(0), times, expiry_conditions),
        ),
        Ttl: st.builds(Ttl, keys, st.booleans()),
        Persist: st.builds(Persist, keys),
        Set: st.one_of(
            st.builds(Set, keys, values, st.integers(0, MAX_TTL), st.sampled_from(["", "nx", "xx"])),
            st.builds(lambda key, pair: Set(key, pair[0], ifeq=pair[1]), keys, pairs),
            st.builds(Set, keys, values, expires=times, get=st.booleans()),
            st.builds(Set, keys, values, keep_ttl=st.booleans(), get=st.booleans()),
        ),
        SetMany: st.one_of(
            st.builds(
                lambda each, nx: SetMany([k for k, _ in each], [v for _, v in each], nx),
                st.lists(st.tuples(keys, form), min_size=1, max_size=3),
                st.booleans(),
            )
            for form in (plain_values, json_values)
        ),
        Cas: st.builds(lambda key, pair, create: Cas(key, *pair, create), keys, pairs, st.booleans()),
    }


simple_by_type = simple_of(keys, values)
simple: st.SearchStrategy[Simple] = st.one_of(list(simple_by_type.values()))


def with_transactions(simple: st.SearchStrategy[Simple]) -> st.SearchStrategy[Command]:
    """Commands of these, transactions of them, and ticks."""
    branches = st.lists(simple, min_size=1, max_size=3)
    whole = st.builds(Txn, branches)
    divided = st.builds(
        Txn, branches, st.lists(conditions, min_size=1, max_size=3), st.lists(simple, max_size=2), st.booleans()
    )
    return simple | whole | divided | st.just(Tick())


commands = with_transactions(simple)

few_keys = st.sampled_from([b"a", b"b"])
telling_values = st.sampled_from([b"7", b"-0.5", b"text", b"", b"9223372036854775807", b"1" * 300]).map(Value) | (
    st.sampled_from([b"[1]", b"[]", b"{}", b'"7"']).map(from_json)
)
colliding_commands = with_transactions(st.one_of(list(simple_of(few_keys, telling_values).values())))
"""Commands on two keys and few values, so that they meet, and fail in every way they can."""
