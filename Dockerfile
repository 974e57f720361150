# The server with cameras, OCR, OpenCV and ONNX models, without torch: docker build -t mataserver .
# docs/edge.md says how to run it.

# A release names the base by its digest: --build-arg BASE=python@sha256:...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS wheels
WORKDIR /src
COPY . .
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
# What is others' is what packaging/requirements.txt names, by its hashes, and nothing else.
RUN pip wheel --quiet --require-hashes --wheel-dir /wheels/others -r packaging/requirements.txt \
 && pip wheel --quiet --no-deps --wheel-dir /wheels/ours ./clients/python . ./plugins/cameras ./plugins/console ./plugins/oip ./plugins/openai ./plugins/opencv ./plugins/ocr ./plugins/onnx

FROM ${BASE}
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Two layers: a change of ours does not ship the libraries again, which are nearly all of the image.
RUN --mount=type=bind,from=wheels,source=/wheels/others,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
RUN --mount=type=bind,from=wheels,source=/wheels/ours,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps /wheels/*.whl \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/mataserver
COPY config.yaml /etc/mataserver.yaml

# Inside a container the loopback is nobody's: which addresses are served is said with --publish.
ENV HOME=/var/lib/mataserver MATA_SERVER_DATA_DIR=/var/lib/mataserver MATA_SERVER_HOST=0.0.0.0
WORKDIR /var/lib/mataserver
VOLUME /var/lib/mataserver
EXPOSE 8110
USER 10001:10001
# At the address of the settings, as the server reads them, and through no proxy.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-c", "import urllib.request as r; from mataserver import config; from mataserver.config.addresses import server_url; r.build_opener(r.ProxyHandler({})).open(server_url(config.load('/etc/mataserver.yaml')) + '/health', timeout=4)"]
ENTRYPOINT ["mataserver"]
CMD ["serve", "--config", "/etc/mataserver.yaml"]
