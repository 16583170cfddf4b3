"""Lints the chart and renders it with Helm itself, and holds what comes out to the schemas of Kubernetes.

Reads a JSON list of sets of values; answers with what came of each, as JSON. What is right and wrong is judged by
the test that runs this.
"""

import json
import sys

import helm_python
import kubernetes_validate
import yaml

# The oldest and the newest that there are schemas for.
VERSIONS = ["1.25", "1.37"]


def invalid(manifest):
    """What the schemas of Kubernetes say against a manifest; None where they know nothing of its kind."""
    problems = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            return None
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            problems.append(f"{version}: {path}: {error.message}")
    return problems


def rendered(chart, values):
    try:
        files = chart.render(values, name="cray-crus", namespace="services")
    except helm_python.HelmError as error:
        return {"error": str(error)}
    manifests, notes = [], ""
    for path, text in sorted(files.items()):
        if path.endswith("NOTES.txt"):
            notes = text
        else:
            manifests += [manifest for manifest in yaml.safe_load_all(text) if manifest]
    return {"manifests": [{"manifest": it, "invalid": invalid(it)} for it in manifests], "notes": notes}


def main():
    path = sys.argv[1]
    chart = helm_python.Chart.load(path)
    answers = []
    for values in json.load(sys.stdin):
        # A text is that of a file of values.
        if isinstance(values, str):
            values = yaml.safe_load(values)
        lint = helm_python.lint(path, values, strict=True)
        answers.append({"lint": lint["messages"], **rendered(chart, values)})
    json.dump({"helm": helm_python.helm_sdk_version(), "answers": answers}, sys.stdout)


main()
