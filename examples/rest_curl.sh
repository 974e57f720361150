#!/usr/bin/env bash
# The REST API with curl: what is there, then one picture sent in the three ways there are.
#
#   MATA_SERVER_API_KEY=... examples/rest_curl.sh [URL]
#
# The server is at MATA_SERVER_URL without an argument (default http://127.0.0.1:8110).
set -euo pipefail
key=${MATA_SERVER_API_KEY:-${KEY:-}}
[ -n "$key" ] || { echo "MATA_SERVER_API_KEY is not set: the key is in ~/.mataserver/api_key" >&2; exit 1; }
trap 'exit 1' ERR
url=${1:-${MATA_SERVER_URL:-http://127.0.0.1:8110}}
pictures=$(dirname "$0")/pictures
auth=(-H "Authorization: Bearer $key")
curl=(curl --silent --show-error --fail-with-body --max-time 120)

echo "== is it up, and what does it serve?"
"${curl[@]}" "$url/v1/health"; echo
"${curl[@]}" "${auth[@]}" "$url/v1/models"; echo

echo "== load a model before the first request"
"${curl[@]}" "${auth[@]}" -H "Content-Type: application/json" \
  -d '{"model": "opencv-qr"}' "$url/v1/models/warmup"; echo

echo "== as JSON: takes every parameter"
printf '{"model": "opencv-qr", "image": "%s", "params": {"confidence": 0.6}}' \
  "$(base64 -w0 "$pictures/codes.jpg")" |
  "${curl[@]}" "${auth[@]}" -H "Content-Type: application/json" -d @- "$url/v1/infer"; echo

echo "== as a form: no base64"
"${curl[@]}" "${auth[@]}" -F model=opencv-qr -F confidence=0.6 \
  -F "file=@$pictures/codes.jpg" "$url/v1/infer/upload"; echo

echo "== as the body: the leanest; -i shows the server's own timing"
"${curl[@]}" -i "${auth[@]}" -H "Content-Type: image/jpeg" \
  --data-binary "@$pictures/codes.jpg" "$url/v1/infer?model=opencv-qr&confidence=0.6"; echo

echo "== an error is a status and a sentence"
"${curl[@]}" "${auth[@]}" -F model=opencv-qr -F threshold=0.6 \
  -F "file=@$pictures/codes.jpg" "$url/v1/infer/upload" || true
echo
