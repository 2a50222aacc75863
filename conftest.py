"""For tests/ and the tests beside benchmarks: one core per test process, no hub, no telemetry, before any import."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it once, at its import; the clusters of testbed.raycluster ask for it
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", RAY_USAGE_STATS_ENABLED="0")
# Ray's workers import the tests' own workers.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]))

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ckd", deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("ckd")

# What nohup or a shell's "&" ignores, all that the tests start would ignore too.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
