"""Metric, bytes, MACs, BOPs, latency and memory, measured."""

from trimtab.measure.cost import bops as bops
from trimtab.measure.cost import macs as macs
from trimtab.measure.cost import prunable as prunable
from trimtab.measure.cost import zero_share as zero_share
from trimtab.measure.distance import Distance as Distance
from trimtab.measure.distance import distance as distance
from trimtab.measure.distance import divergence as divergence
from trimtab.measure.distance import outputs_of as outputs_of
from trimtab.measure.hotspots import by_family as by_family
from trimtab.measure.hotspots import hotspots as hotspots
from trimtab.measure.latency import Timing as Timing
from trimtab.measure.latency import alternate as alternate
from trimtab.measure.machine import cpu as cpu
from trimtab.measure.machine import usable_cores as usable_cores
from trimtab.measure.measurement import artifact_peak as artifact_peak
from trimtab.measure.measurement import first_rows as first_rows
from trimtab.measure.measurement import latencies as latencies
from trimtab.measure.measurement import latency as latency
from trimtab.measure.measurement import measure as measure
from trimtab.measure.memory import peak_bytes as peak_bytes
from trimtab.measure.metric import Evaluation as Evaluation
from trimtab.measure.metric import bootstrap_drop as bootstrap_drop
from trimtab.measure.metric import drop_of as drop_of
from trimtab.measure.metric import evaluate as evaluate
from trimtab.measure.metric import higher_is_better as higher_is_better
from trimtab.tasks.switches import limit_threads as limit_threads
