"""The model server: a program of its own that runs in Seldon Core's environment.

It shares ``adapters.feature_schema`` and ``adapters.model_file`` with metadrift and nothing else:
seldon-core 1.17.1 cannot live in one environment with current MLflow and River. Modules here import
Seldon and Flask inside functions, so that metadrift's own environment can read and test the rest.
"""

__all__: list[str] = []
