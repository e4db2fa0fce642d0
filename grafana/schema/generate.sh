#!/usr/bin/env bash
# Makes the JSON schemas beside this file from the types that Grafana publishes. README.md says what they are for.
set -euo pipefail
readonly grafana=13.2.3 generator=2.9.0
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$work"
npm install --silent --no-audit --no-fund --ignore-scripts --prefix . \
    "@grafana/schema@$grafana" "ts-json-schema-generator@$generator"
types=node_modules/@grafana/schema/dist/types/raw

make() { # make NAME FILE TYPE
    node_modules/.bin/ts-json-schema-generator --path "$types/$2/x/types.gen.d.ts" --type "$3" \
        --no-type-check --jsDoc none --minify >"$here/$1.json"
}
make dashboard dashboard Dashboard
# What panels keep in `options` and in `fieldConfig.defaults.custom`, which the type of a dashboard leaves open.
for panel in bargauge heatmap stat timeseries; do
    make "$panel" "composable/$panel/panelcfg" '*'
done
