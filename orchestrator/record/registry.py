"""MLflow's model registry: an export as a version of a registered model. Imports MLflow; nothing else needs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import MlflowClient

from orchestrator.record.mlflow_connection import TrackingError, first_line
from orchestrator.record.tracking import PREFIX, run_ids

FOLDER = "export"  # within the artifacts of the stage's run


def prepare(uri: str, experiment: str, name: str, key: str) -> str:
    """Make sure that the registered model exists. Returns the MLflow run of the stage, to which a version will belong.

    Raises:
        TrackingError: MLflow cannot be reached, lacks the run, or refuses the name.
    """
    run_id = run_ids(uri, experiment, [key]).get(key)
    if run_id is None:
        raise TrackingError(
            f"MLflow at {uri}: experiment {experiment!r} has no run of stage {key}; "
            "complete it from the store with --sync-mlflow"
        )
    try:
        MlflowClient(tracking_uri=uri, registry_uri=uri).create_registered_model(name)
    except Exception as error:  # MLflow and its backends raise many kinds
        exists = isinstance(error, MlflowException) and error.error_code == ErrorCode.Name(RESOURCE_ALREADY_EXISTS)
        if not exists:
            raise TrackingError(f"MLflow at {uri}: cannot register {name!r}: {first_line(error)}") from error
    return run_id


def register(uri: str, run_id: str, name: str, folder: Path, record: Mapping[str, Any]) -> int:
    """Make the files in `folder` a version of the registered model `name`, and return its number.

    A stage that already has a version there keeps it: repeating changes nothing. The files are a folder to download
    (`models:/NAME/VERSION`), not an MLflow flavour to call.

    Raises:
        TrackingError: MLflow refuses, or does not answer.
    """
    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        for version in client.search_model_versions(f"name='{name}'"):
            if version.tags.get(PREFIX + "key") == record["key"]:
                return int(version.version)
        client.log_artifacts(run_id, str(folder), FOLDER)
        source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
        tags = {"key": record["key"], "kind": record["kind"], "network": record["spec"]["network"]["name"]}
        made = client.create_model_version(
            name,
            source,
            run_id,
            tags={PREFIX + tag: value for tag, value in tags.items()},
            description=f"{record['kind']} {record['name']}: safetensors, settings and README to download",
        )
    except Exception as error:  # as above
        raise TrackingError(f"MLflow at {uri}: cannot register {name!r}: {first_line(error)}") from error
    return int(made.version)
