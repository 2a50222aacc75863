"""The metrics, scraped from a real Ray; and that dashboard and page name only what exists."""

import copy
import json
import re
import socket
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.gauges import METRICS
from tests.deploy.deploy_files import DEPLOY, ROOT

DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
PROMQL = {"sum", "max", "avg", "by", "label_values"}  # what the dashboard uses of the language


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Name -> [(labels, value)] of a run's metrics page."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder = tmp_path_factory.mktemp("scraped")
    command = [sys.executable, "-m", "tests.cluster.scraped", str(port), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    text = (folder / "page").read_text()
    assert "patient" not in done.stdout + text + (folder / "events.jsonl").read_text()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_the_page_tells_the_run_as_it_was(page):
    def value(name, **labels):
        ((_, found),) = [each for each in page[f"ray_{name}"] if labels.items() <= each[0].items()]
        return found

    embed = {"stage": "embed"}
    assert (
        value("ckd_shards_total", **embed) == 6
        and value("ckd_shards_done", **embed) == 5
        and value("ckd_shards_failed", **embed) == 1
    )
    assert value("ckd_visits_total", **embed) == 60 and value("ckd_visits_done", **embed) == 50
    assert value("ckd_shard_retries", **embed) >= 1 and value("ckd_shard_deaths", **embed) >= 1
    assert value("ckd_visits_per_second", **embed) > 0
    assert value("ckd_tokens_per_second", **embed) == pytest.approx(
        7 * value("ckd_visits_per_second", **embed), rel=0.01
    )
    assert value("ckd_spent", stage="embed") == 2.5
    assert value("ckd_preemptions") == value("ckd_nodes_lost") == 0
    student = {
        "ckd_student_step": 5,
        "ckd_student_steps": 40,
        "ckd_student_step_seconds": 0.25,
        "ckd_student_loss": 0.5,
    }
    student |= {"ckd_student_visits_per_second": 128, "ckd_student_checkpoint_step": 5}
    assert {name: value(name, stage="train-student") for name in student} == student


def test_every_metric_that_we_name_is_on_the_page_under_our_help_text(page):
    assert {name for name in page if name.startswith("ray_ckd_")} == {f"ray_{name}" for name in METRICS}


def rays_own(page):
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    # What Ray says of machines comes from its dashboard's agent; a GPU's only where there is one.
    return set(page) | {f"ray_{name}" for name in METRICS_GAUGES}


def only_existing(dashboard, page):
    """Every name in every expression is a metric, every label of our own metrics one that they have."""
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [each["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    assert len(expressions) > 20 and all(panel["datasource"]["uid"] == "${datasource}" for panel in dashboard["panels"])
    labels = {key for samples in page.values() for sample, _ in samples for key in sample}
    for expression in expressions:
        selectors, grouped = re.findall(r"\{([^}]*)\}", expression), re.findall(r"by \(([^)]*)\)", expression)
        bare = re.sub(r"\{[^}]*\}|by \([^)]*\)|, SessionName", " ", expression)
        names = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - PROMQL
        assert names <= rays_own(page), f"{names - rays_own(page)} in {expression}"
        used = set(re.findall(r"(\w+)[!=]?[=~]", " ".join(selectors))) | {each.strip() for each in grouped}
        # instance is Prometheus' own, node_type that of Ray's counts of machines
        assert used <= labels | {"instance", "node_type"}, f"{used - labels} in {expression}"


def test_the_dashboard_names_only_metrics_that_exist_and_all_of_ours(page):
    only_existing(DASHBOARD, page)
    text = json.dumps(DASHBOARD)
    assert all(re.search(rf"ray_{name}\b", text) for name in METRICS)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ray_ckd_shards_done", "ray_ckd_shards_finished"),
        ("ray_ckd_shards_done", "ckd_shards_done"),
        ("ray_node_gpus_utilization", "ray_node_gpu_utilization"),
        ("ray_cluster_active_nodes", "ray_cluster_nodes"),
        ("by (stage)", "by (step)"),
        ("SessionName=~", "Session=~"),
    ],
)
def test_a_dashboard_with_a_name_that_does_not_exist_is_refused(page, before, after):
    broken = copy.deepcopy(DASHBOARD)
    for panel in broken["panels"]:
        for target in panel["targets"]:
            target["expr"] = target["expr"].replace(before, after)
    assert broken != DASHBOARD
    with pytest.raises(AssertionError):
        only_existing(broken, page)


def test_without_a_ray_session_events_go_nowhere_else_and_ray_is_not_imported():
    event = "from jobs.console import terminal_console as make; make().event('shard_done', stage='x', shards=1)"
    code = f"import sys; {event}; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_the_page_on_operating_explains_every_metric():
    text = (ROOT / "docs" / "operating.md").read_text()
    rows = "\n".join(f"| `ray_{name}` | {meaning} |" for name, meaning in METRICS.items())
    assert rows in text, f"docs/operating.md wants this table:\n{rows}"
