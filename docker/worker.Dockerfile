# A node of a Ray cluster that runs the cells of `patchbay sweep --ray`. From the root of the repository:
#   docker build -f docker/worker.Dockerfile -t attention-patchbay-worker .
#   docker build -f docker/worker.Dockerfile -t attention-patchbay-worker:cuda --build-arg BASE=cuda .
ARG BASE=cpu

FROM python:3.12-slim-bookworm AS cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu TORCH=torch==2.13.0+cpu
RUN python -m venv /opt/patchbay

# torch's wheels bring CUDA's libraries; the driver is the host's
FROM nvidia/cuda:12.8.1-base-ubuntu24.04 AS cuda
ENV TORCH=torch==2.13.0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/patchbay

# hadolint ignore=DL3006
FROM ${BASE} AS worker
ENV PATH=/opt/patchbay/bin:$PATH PYTHONUNBUFFERED=1
RUN pip install --no-cache-dir "$TORCH"
WORKDIR /src
COPY pyproject.toml README.md LICENSE __init__.py api.py client.py py.typed ./
COPY headless headless
COPY ldm_patched ldm_patched
COPY nodes nodes
RUN pip install --no-cache-dir ".[headless,sweep,ray,remote]" \
    && useradd --create-home --uid 10001 patchbay \
    && install --directory --owner patchbay /results
COPY docker/node.sh /usr/local/bin/node.sh
USER patchbay
WORKDIR /home/patchbay
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["sh", "/usr/local/bin/node.sh", "health"]
ENTRYPOINT ["sh", "/usr/local/bin/node.sh"]
CMD ["worker"]
