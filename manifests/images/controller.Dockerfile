# Image of the controller and the command line, without torch. Build context: the root of the repository.
#
#   docker build -f manifests/images/controller.Dockerfile -t controller .
#
# The tag of the base image can move. To pin its digest: --build-arg PYTHON_IMAGE=docker.io/library/python:3.11-slim@sha256:...
#
# Runs as an unprivileged user on a read-only root file system.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim
FROM ${PYTHON_IMAGE}

ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
RUN python3 -m venv /opt/venv
COPY manifests/images/controller.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r /tmp/requirements.txt && rm /tmp/requirements.txt

COPY pyproject.toml README.md LICENSE /src/
COPY orchestrator /src/orchestrator
COPY analysis /src/analysis
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps /src && pip check && rm -r /src

RUN echo 'controller:x:65532:65532::/tmp:/usr/sbin/nologin' >>/etc/passwd && echo 'controller:x:65532:' >>/etc/group
USER 65532:65532
# Commit of the build context, with the suffix `-dirty` if files were modified; written to records
ARG COMMIT=
ENV SCALING_STUDY_COMMIT=${COMMIT} HOME=/tmp
WORKDIR /tmp
ENTRYPOINT ["python", "-m", "orchestrator.controller"]
