# The built-in set-up of a sprite: builds the agent's program below $HOME.
#
# What stands before the first slice belongs to every slice. Each slice runs by itself, up to three times, and can be
# run again. A pool's own script (provider.sprites.setup.scriptConfigMapRef) replaces all of this; what it must leave
# behind is $HOME/.local/bin/openclaw. OPENCLAW_GIT_REF is the branch or tag to build.
set -euo pipefail
export NPM_CONFIG_PREFIX="$HOME/.npm-global"
export PATH="$NPM_CONFIG_PREFIX/bin:$HOME/.bun/bin:$HOME/.local/bin:$PATH"
root="$HOME/openclaw"

# agentpool:slice packages
sudo apt-get update
sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y git ca-certificates curl python3 make g++

# agentpool:slice tools
mkdir -p "$NPM_CONFIG_PREFIX" "$HOME/.bun/bin" "$HOME/.local/bin"
wanted=22.12.0
present=$(node --version 2>/dev/null | sed 's/^v//' || true)
if [ "$(printf '%s\n%s\n' "$wanted" "$present" | sort -V | head -n 1)" != "$wanted" ]; then
  npm install -g node@22
fi
npm install -g pnpm@10.23.0 bun

# agentpool:slice source
rm -rf "$root"
git clone --depth 1 --branch "$OPENCLAW_GIT_REF" https://github.com/xmtplabs/openclaw "$root"
git -C "$root" rev-parse HEAD >"$HOME/.agentpool/commit"
# Published ranges of the program itself cannot be resolved inside its own tree.
for manifest in "$root"/extensions/*/package.json; do
  [ -e "$manifest" ] || continue
  sed -i -E 's/"openclaw"[[:space:]]*:[[:space:]]*"(>=|workspace:)[^"]*"/"openclaw": "*"/' "$manifest"
done

# agentpool:slice install
cd "$root"
pnpm install --no-frozen-lockfile

# agentpool:slice build
cd "$root"
pnpm build

# agentpool:slice script
mkdir -p "$HOME/.local/bin" "$HOME/.openclaw/workspace"
cat >"$HOME/.local/bin/openclaw" <<'SCRIPT'
#!/bin/bash
export PATH="$HOME/.npm-global/bin:$HOME/.bun/bin:$HOME/.local/bin:$PATH"
exec node "$HOME/openclaw/dist/entry.js" "$@"
SCRIPT
chmod 0755 "$HOME/.local/bin/openclaw"
