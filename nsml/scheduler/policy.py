"""The scheduler's policies: every number by which it decides, and why it is that number."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What counts how much in the choice of a node, in units of one whole GPU made unusable. Found by
    replaying the traces of a cluster of 6,212 GPUs (`benchmarks/openb.py`)."""

    fragments: float = 1.0  # GPU share that the usual requests could use before, and cannot after
    stranded: float = 0.1  # GPUs left without the CPUs and memory that usually go with one
    rest: float = 1.0  # what is left of a GPU of which a part was taken (whole ones leave nothing)
    left: float = 0.02  # each GPU left free on the node: fill nodes up before opening others
    scarce: float = 1.0  # a GPU of a model which others ask for by name
    local: float = 0.5  # 10 GiB of the session's data and environment being there already


@dataclass(frozen=True, slots=True, kw_only=True)
class Fairness:
    """Who is served first among sessions of one priority."""

    size: float = 16.0  # a GPU asked for counts as much as 16 in use: short lines first (Philly trace)
    patience: float = 3600.0  # seconds; who waited longest, and longer than that, may be due …
    lane: float = 0.1  # … if sessions that had waited half as long hold at most this part of all GPUs
    longest: float = 3 * 86400.0  # seconds; beyond, who waited longest is served first in any case
    half_life: float = 6 * 3600.0  # seconds in which what an owner used before counts half


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """How sessions are placed, and how often."""

    weights: Weights = field(default_factory=Weights)
    fairness: Fairness = field(default_factory=Fairness)
    preempts: bool = True
    told: int = 1000  # waiting sessions whose reason is worked out; more than anybody reads
    min_delay: float = 0.01  # seconds between passes under load, so that one pass serves many wake-ups
    tell_delay: float = 0.25  # seconds between two writings of the reasons; people read no faster
    resync: float = 30.0  # seconds after which the index is compared with the store, to be certain


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long silence is borne before something is taken for dead; in seconds."""

    silent: float = 30.0  # a node; six heartbeats, more than a slow network or a long pause takes
    amnesty: float = 60.0  # after taking over, until the first node is lost: all may have been kept waiting
    guard: float = (
        0.5  # of the nodes silent at once: more likely the network or we ourselves, so nothing is lost
    )
    unstarted: float = 10.0  # a placed attempt that its node does not list is sent again
    missing: float = 20.0  # an attempt that ran and that its node does not list any more is lost
    untold: float = 60.0  # an attempt that its node lists as ended, without having told so, is lost
    lease: float = 6.0  # a leader that has not renewed its lease for so long is followed by another
    renew: float = 2.0  # three renewals must fit into the lease
    busy: float = 1.0  # between looks at nodes and attempts while there are sessions …
    idle: float = 5.0  # … and while there are none
