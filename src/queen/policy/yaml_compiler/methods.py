"""The methods of collections, and of texts, that expressions may call: what they take and what they give."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from queen.policy.yaml_compiler.fields import Kind

LISTS: Final = frozenset({Kind.WORKERS, Kind.POOLS, Kind.GPUS})
_WORKERS: Final = frozenset({Kind.WORKERS})
_PLACES: Final = frozenset({Kind.WORKERS, Kind.POOLS})


class Asks(StrEnum):
    """Arguments that are asked of each item of the list."""

    CONDITION = "a condition on each"
    KEY = "a field of each"
    NUMBER_KEY = "a field of each that is a number"


class Gives(StrEnum):
    """Results that depend on the list."""

    SAME = "the same kind of list"
    ITEM = "one of its items, or nil"


@dataclass(frozen=True, slots=True)
class Method:
    """A method: what it does, the kinds it is called on, its arguments, its result."""

    about: str
    on: frozenset[Kind]
    gives: Kind | Gives
    takes: tuple[Kind | Asks, ...] = ()


METHODS: Final = {
    "idle": Method("those that run nothing", _WORKERS, Gives.SAME),
    "available": Method("workers with a free slot; healthy pools", _PLACES, Gives.SAME),
    "online": Method("those that serve", _PLACES, Gives.SAME),
    "with_model": Method("workers with this model; pools that have it on disk", _PLACES, Gives.SAME, (Kind.TEXT,)),
    "with_capacity": Method("those with so much memory free", LISTS, Gives.SAME, (Kind.SIZE_MB,)),
    "in_pool": Method("those on this pool", _WORKERS, Gives.SAME, (Kind.TEXT,)),
    "with_label": Method("those with this label and value", _PLACES, Gives.SAME, (Kind.TEXT, Kind.TEXT)),
    "filter": Method("those for which this holds", LISTS, Gives.SAME, (Asks.CONDITION,)),
    "sort_by": Method("the same, smallest first", LISTS, Gives.SAME, (Asks.KEY,)),
    "map": Method("a text of each", LISTS, Kind.TEXTS, (Asks.KEY,)),
    "first": Method("the first", LISTS, Gives.ITEM),
    "last": Method("the last", LISTS, Gives.ITEM),
    "get": Method("the one with this id", LISTS, Gives.ITEM, (Kind.TEXT,)),
    "count": Method("how many", LISTS, Kind.NUMBER),
    "is_empty": Method("whether there is none", LISTS, Kind.FLAG),
    "any": Method("whether this holds for one", LISTS, Kind.FLAG, (Asks.CONDITION,)),
    "all": Method("whether this holds for all", LISTS, Kind.FLAG, (Asks.CONDITION,)),
    "min_by": Method("the one with the least", LISTS, Gives.ITEM, (Asks.NUMBER_KEY,)),
    "max_by": Method("the one with the most", LISTS, Gives.ITEM, (Asks.NUMBER_KEY,)),
    "least_loaded": Method("the one with the fewest jobs per slot", _WORKERS, Gives.ITEM),
    "most_vram_free": Method("the one with most memory free", _WORKERS | {Kind.GPUS}, Gives.ITEM),
    "round_robin": Method("the next in turn", LISTS, Gives.ITEM),
    "random": Method("any one, by the cycle's seed", LISTS, Gives.ITEM),
    "cheapest": Method("the one that costs least a token", _WORKERS, Gives.ITEM),
    "nearest": Method("the one nearest to a place", _PLACES, Gives.ITEM, (Kind.GEO,)),
    "contains": Method(
        "whether a text has this part, or a list this item", frozenset({Kind.TEXT, Kind.TEXTS}), Kind.FLAG, (Kind.TEXT,)
    ),
    "starts_with": Method("whether a text begins with this", frozenset({Kind.TEXT}), Kind.FLAG, (Kind.TEXT,)),
}
"""By name; the collections of policy.md, and two questions to texts."""
