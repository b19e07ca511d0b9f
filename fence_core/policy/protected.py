"""Targets that no test writes to, whatever the policy allows, each with its reason.

They are files that some program runs, or obeys, the next time its user works in that directory: writing one turns a
test into code that runs unfenced tomorrow. They are refused by name at the moment of the call and at any depth, so a
directory made a moment ago is no way around.

The one exception is `exempt_below_scratch`: below the directories for temporary files the names are free. A suite
that tests a git tool runs `git init` in its `tmp_path`, which writes `.git/config` and sample hooks; nobody works in
such a directory, so nothing there configures anybody's git. If the project itself lies in the temporary directory its
own tree stays protected, and so does a home directory there.
"""

from __future__ import annotations

from fence_core.policy.record import Record

__all__ = ["CONTAINER_OPS", "PROTECTED", "Protected", "config_names", "containers"]


class Protected(Record):
    """Names that are protected for one reason."""

    names: tuple[str, ...]
    """Each a last component, or the last few, at any depth; everything below is covered too."""
    reason: str
    exempt_below_scratch: bool = True
    unless: str = ""
    """A setting of the policy that lifts the protection."""


def _row(names: str, reason: str, *, exempt_below_scratch: bool = True, unless: str = "") -> Protected:
    """`names`: with spaces in between."""
    return Protected(tuple(names.split()), reason, exempt_below_scratch, unless)


_LEFTHOOK = ("lefthook", ".lefthook", "lefthook-local", ".lefthook-local")

PROTECTED = (
    _row(
        ".bashrc .bash_profile .profile .zshrc .zprofile .bash_login .bash_logout .bash_aliases .zshenv .zlogin "
        ".zlogout .kshrc .cshrc .tcshrc .login .xinitrc .xprofile .xsession .xsessionrc .bash_completion "
        ".config/fish .config/powershell",
        "the shell runs it at its next start",
    ),
    _row(
        ".inputrc .screenrc .tmux.conf .config/tmux .pam_environment .config/environment.d",
        "the terminal or the session obeys it at its next start",
    ),
    _row(
        # Most of them look in the working directory, too.
        ".Rprofile .ghci .iex.exs .irbrc .ocamlinit .octaverc .perldb .pryrc .psqlrc .sqliterc",
        "the interpreter runs it when it is started there",
    ),
    _row(
        ".flake8 .mypy.ini .pylintrc .pylintrc.toml mypy.ini pylintrc pylintrc.toml",
        "linters, which editors run, load code that it names",
    ),
    _row(
        "pytest.ini .pytest.ini pytest.toml .pytest.toml",
        "pytest takes flags from it when it is started there, and one of them could switch the fence off",
    ),
    _row("fence.json fence.jsonc fence.yaml fence.yml", "the fence takes its rules from it when it is started there"),
    _row(".coveragerc .coveragerc.toml", "coverage imports the plugins that it names, before any fence"),
    _row(".envrc", "direnv runs it when somebody enters the directory"),
    _row(".git/hooks", "git runs what lies there"),
    _row(".gitconfig", "git takes aliases and helper programs from it"),
    _row(".config/git", "git takes aliases, helper programs and hooks from it"),
    _row(
        ".git/config", "git takes aliases, hook paths and helper programs from it", unless="filesystem.allow_git_config"
    ),
    _row(
        ".git/config.worktree .git/info/attributes",
        "git takes filters and helper programs from it",
        unless="filesystem.allow_git_config",
    ),
    _row(".git/commondir", "git takes hooks and configuration from where it points"),
    _row(
        ".git/modules .git/worktrees",
        "git takes hooks and helper programs from there, or from where it points",
        unless="filesystem.allow_git_config",
    ),
    _row(
        ".git/rebase-merge", "git runs the commands in it when a rebase goes on", unless="filesystem.allow_git_config"
    ),
    _row(".gitmodules", "git fetches what it names"),
    _row(".ripgreprc", "ripgrep takes a program to run from it"),
    _row(".vscode .idea", "the editor runs tasks and programs that it names"),
    _row(
        ".dir-locals-2.el .dir-locals.el .devcontainer .devcontainer.json .exrc .fleet .helix .lvimrc .nvim.lua "
        ".nvimrc .vim .vimrc .zed "
        ".emacs .emacs.d .config/emacs .config/nvim .config/helix .config/zed",
        "the editor runs what it names or says",
    ),
    _row(".gdbinit .lldbinit .pdbrc", "the debugger runs it when it starts"),
    Protected(
        (
            ".husky",
            ".githooks",
            ".lefthook",
            ".lefthook-local",
            *(f"{name}.{kind}" for name in _LEFTHOOK for kind in ("yml", "yaml", "toml", "json", "jsonc")),
            ".overcommit.yml",
            ".pre-commit-config.yaml",
            ".simple-git-hooks.json",
        ),
        "git's hooks run what it names or holds",
    ),
    _row(".hg/hgrc .hgrc .config/hg", "Mercurial takes hooks and helper programs from it"),
    _row(
        ".jj/repo/config.toml .jj/config.toml .jjconfig.toml .config/jj",
        "Jujutsu takes aliases and helper programs from it",
    ),
    _row(
        ".mise.toml mise.toml .mise .config/mise .direnvrc .config/direnv",
        "mise or direnv runs it when somebody enters the directory",
    ),
    _row(
        ".cargo/config .cargo/config.toml .npmrc .yarnrc .yarnrc.yml .pnpmfile.cjs bunfig.toml",
        "the package manager runs programs that it names",
    ),
    _row(".bazelrc .bundle/config .mvn", "the build tool obeys it, and runs what it names"),
    _row(".mcp.json", "coding agents start the servers that it names"),
    _row(".claude/commands .claude/agents", "coding agents follow what is written there"),
    # Not all of .claude and .cursor: agents keep whole work trees below them, in which tests are run.
    _row(
        ".agents .amazonq .augment .claude.json .claude/hooks .claude/output-styles .claude/plugins .claude/rules "
        ".claude/skills .claude/settings.json .claude/settings.local.json .cursor/agents .cursor/commands "
        ".cursor/environment.json .cursor/rules .cursor/skills .cursor/mcp.json .cursor/hooks.json .cursorrules "
        ".codex/config.toml .codex/prompts .codex/rules .codex/skills .crush.json .gemini/commands "
        ".gemini/extensions .gemini/settings.json .goosehints .junie .qwen/settings.json .trae/rules "
        ".aider.conf.yml .clinerules .continue .github/agents .github/chatmodes .github/copilot-instructions.md "
        ".github/hooks .github/instructions .github/prompts .github/skills .kiro .opencode .roo .roorules "
        ".windsurf .windsurfrules AGENTS.md AGENTS.override.md CLAUDE.local.md CLAUDE.md GEMINI.md QWEN.md "
        "WARP.md crush.json opencode.json opencode.jsonc",
        "coding agents follow or run what is written there",
    ),
    _row(".ssh", "it decides who may log in, and as whom ssh goes where"),
    _row(".gnupg", "it decides whose signatures are believed"),
    _row(
        ".config/autostart .config/systemd/user .local/share/systemd/user",
        "the desktop or systemd starts what it names",
    ),
)

CONTAINER_OPS = frozenset({"rename", "link", "symlink", "create"})
"""Calls that put a whole tree in place under a new name: done to the directory that a protected name lies in, they
would bring their own `hooks` along. So does the file `.git` that is made (`create`), which can name any directory."""


def containers() -> frozenset[str]:
    """The directories that protected names of more than one component lie in: `.git`, `.config`, `.config/systemd`."""
    found = set()
    for row in PROTECTED:
        for name in row.names:
            while name := name.rpartition("/")[0]:
                found.add(name)
    return frozenset(found)


_CONFIG_NAMES = ("fence.json", "fence.jsonc", "fence.yaml", "fence.yml", "pyproject.toml")
# These can put `--no-fence` or `-p no:fence` on pytest's command line.
_PYTEST_CONFIG_NAMES = ("pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg")


def config_names() -> tuple[str, ...]:
    """Files of the project's root directory that decide how tomorrow's run is fenced: locked, whether there or not."""
    return _CONFIG_NAMES + _PYTEST_CONFIG_NAMES
