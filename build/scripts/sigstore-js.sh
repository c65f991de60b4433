#!/bin/sh
# Signs an in-toto statement with npm's @sigstore/sign and an Ed25519 key, without services, and prints the sigstore bundle.
#
#   build/scripts/sigstore-js.sh KEY.pem STATEMENT
#
# The library and the version of node that it needs come from npm into target/sigstore-js, once.
set -eu
key=$(realpath "$1") statement=$(realpath "$2")
cd "$(dirname "$0")/../.."

place=target/sigstore-js
if [ ! -e $place/node_modules/@sigstore/sign ]; then
    command -v npm >/dev/null || { echo 'sigstore-js: npm is needed: apt-get install npm' >&2; exit 69; }
    mkdir -p $place
    npm install --prefix $place --silent --no-audit --no-fund node@22.23.3 @sigstore/sign@5.1.0 @sigstore/bundle >&2
fi
cat >$place/sign.js <<'JS'
const fs = require('fs'), crypto = require('crypto');
const { DSSEBundleBuilder } = require('@sigstore/sign');
const { bundleToJSON } = require('@sigstore/bundle');
const [, , keyFile, statement] = process.argv;
const key = crypto.createPrivateKey(fs.readFileSync(keyFile));
const publicKey = crypto.createPublicKey(key).export({ type: 'spki', format: 'pem' });
const signer = {
  sign: async (data) => ({
    signature: crypto.sign(null, data, key),
    key: { $case: 'publicKey', publicKey, hint: 'local' },
  }),
};
new DSSEBundleBuilder({ signer, witnesses: [] })
  .create({ data: fs.readFileSync(statement), type: 'application/vnd.in-toto+json' })
  .then((bundle) => process.stdout.write(JSON.stringify(bundleToJSON(bundle)) + '\n'));
JS
exec $place/node_modules/node/bin/node $place/sign.js "$key" "$statement"
