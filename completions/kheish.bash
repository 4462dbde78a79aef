# bash completion for kheish, made by `kheish completion bash`.

_kheish_words() {
    COMPREPLY=()
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$1" -- "$cur")
}

_kheish() {
    local cur prev line word given=0
    COMPREPLY=()
    cur=${COMP_WORDS[COMP_CWORD]}
    prev=${COMP_WORDS[COMP_CWORD-1]}
    case $COMP_CWORD in
        1) _kheish_words "run tui attach ps logs inbox approve deny answer wait cancel interrupt usage replay status doctor completion demo sessions runs approvals questions routes secrets runtime permissions daemon --help --version"; return ;;
        2) case ${COMP_WORDS[1]} in
               sessions) _kheish_words "create fork list get input events stream transcript queue edit move withdraw pause resume interrupt rename label labels compact end set-model set-mode budget verify vacuum export import --help"; return ;;
               runs) _kheish_words "list get why usage debug wait events stream cancel --help"; return ;;
               approvals) _kheish_words "list show allow deny allow-all deny-all --help"; return ;;
               questions) _kheish_words "list show answer decline --help"; return ;;
               routes) _kheish_words "list chains get add set remove test path --help"; return ;;
               secrets) _kheish_words "set list get delete generate rotate-key import-env --help"; return ;;
               runtime) _kheish_words "get set-model set-permission-mode set-system-prompt set-debug-level tool-limits revisions rollback --help"; return ;;
               permissions) _kheish_words "check matrix rules allow ask deny forget audit --help"; return ;;
               daemon) _kheish_words "start stop restart check status run logs install --help"; return ;;
           esac ;;
    esac
    line=${COMP_WORDS[1]}
    case $line in sessions | runs | approvals | questions | routes | secrets | runtime | permissions | daemon) line="$line ${COMP_WORDS[2]}" ;; esac
    case "$line:$prev" in
        "run:-s" | "run:--session") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
        "run:--model") _kheish_words "$(kheish completion models 2>/dev/null)"; return ;;
        "run:--mode") _kheish_words "default accept_edits plan dont_ask bypass"; return ;;
        "run:--attach") COMPREPLY=($(compgen -f -- "$cur")); return ;;
        "run:--cwd") COMPREPLY=($(compgen -d -- "$cur")); return ;;
        "run:--on-budget") _kheish_words "ask stop"; return ;;
        "wait:--until") _kheish_words "done blocked idle"; return ;;
        "usage:--by") _kheish_words "model route session day"; return ;;
        "sessions create:--cwd") COMPREPLY=($(compgen -d -- "$cur")); return ;;
        "sessions create:--mode") _kheish_words "default accept_edits plan dont_ask bypass"; return ;;
        "sessions input:--model") _kheish_words "$(kheish completion models 2>/dev/null)"; return ;;
        "sessions export:-o" | "sessions export:--output") COMPREPLY=($(compgen -f -- "$cur")); return ;;
        "runs list:-s" | "runs list:--session" | "runs list:--session-id") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
        "runs usage:--by") _kheish_words "model route session day"; return ;;
        "runs wait:--until") _kheish_words "done blocked"; return ;;
        "approvals list:-s" | "approvals list:--session" | "approvals list:--session-id") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
        "approvals allow-all:-s" | "approvals allow-all:--session" | "approvals allow-all:--session-id") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
        "approvals deny-all:-s" | "approvals deny-all:--session" | "approvals deny-all:--session-id") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
        "questions list:-s" | "questions list:--session" | "questions list:--session-id") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
        "routes add:--driver") _kheish_words "anthropic openai openai_compatible google openrouter xai ollama llama_cpp scripted rehearsal"; return ;;
        "routes add:--model") _kheish_words "$(kheish completion models 2>/dev/null)"; return ;;
        "routes add:--auth-ref") _kheish_words "$(kheish completion secrets 2>/dev/null)"; return ;;
        "routes set:--driver") _kheish_words "anthropic openai openai_compatible google openrouter xai ollama llama_cpp scripted rehearsal"; return ;;
        "routes set:--model") _kheish_words "$(kheish completion models 2>/dev/null)"; return ;;
        "routes set:--auth-ref") _kheish_words "$(kheish completion secrets 2>/dev/null)"; return ;;
        "routes test:--model") _kheish_words "$(kheish completion models 2>/dev/null)"; return ;;
        "permissions check:--mode") _kheish_words "default accept_edits plan dont_ask bypass"; return ;;
        "permissions check:-s" | "permissions check:--session") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
        "permissions rules:-s" | "permissions rules:--session") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
        "permissions allow:-s" | "permissions allow:--session") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
        "permissions ask:-s" | "permissions ask:--session") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
        "permissions deny:-s" | "permissions deny:--session") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
        "permissions audit:-s" | "permissions audit:--session") _kheish_words "$(kheish completion sessions 2>/dev/null)"; return ;;
    esac
    for word in "${COMP_WORDS[@]:0:COMP_CWORD}"; do case $word in -*) ;; *) ((given++)) ;; esac; done
    set -- $line
    case $cur in
        -*) case $line in
                "run") _kheish_words "-s --session --model --mode -d --detach --steer --interrupt --attach --pin --cwd --key --budget --budget-tokens --budget-steps --budget-time --on-budget --json --help" ;;
                "tui") _kheish_words "--help" ;;
                "attach") _kheish_words "--help" ;;
                "ps") _kheish_words "-a --all --limit --json --help" ;;
                "logs") _kheish_words "-f --follow -n --lines --json --help" ;;
                "inbox") _kheish_words "--count --json --help" ;;
                "approve") _kheish_words "--if-digest --edit --session --always --rule --verify --retry --mark-done --give-up --raise -m --message --json --help" ;;
                "deny") _kheish_words "--if-digest -m --message --json --help" ;;
                "answer") _kheish_words "--option --decline -m --message --json --help" ;;
                "wait") _kheish_words "--until --timeout --json --help" ;;
                "cancel") _kheish_words "-m --reason --json --help" ;;
                "interrupt") _kheish_words "-m --reason --json --help" ;;
                "usage") _kheish_words "--by --since --json --help" ;;
                "replay") _kheish_words "--until --json --help" ;;
                "status") _kheish_words "--json --help" ;;
                "doctor") _kheish_words "--check-auth --canary --json --help" ;;
                "completion") _kheish_words "--help" ;;
                "demo") _kheish_words "-i --interactive --keep --json --help" ;;
                "sessions create") _kheish_words "--cwd --mode --title --json --help" ;;
                "sessions fork") _kheish_words "--at --name --title --json --help" ;;
                "sessions list") _kheish_words "--status --limit --json --help" ;;
                "sessions get") _kheish_words "--json --help" ;;
                "sessions input") _kheish_words "--model --pin --wait --json --help" ;;
                "sessions events") _kheish_words "--cursor --limit --json --help" ;;
                "sessions stream") _kheish_words "--cursor --json --help" ;;
                "sessions transcript") _kheish_words "--limit --json --help" ;;
                "sessions queue") _kheish_words "--json --help" ;;
                "sessions edit") _kheish_words "--json --help" ;;
                "sessions move") _kheish_words "--json --help" ;;
                "sessions withdraw") _kheish_words "--json --help" ;;
                "sessions pause") _kheish_words "--json --help" ;;
                "sessions resume") _kheish_words "--json --help" ;;
                "sessions interrupt") _kheish_words "-m --reason --json --help" ;;
                "sessions rename") _kheish_words "--json --help" ;;
                "sessions label") _kheish_words "--remove --json --help" ;;
                "sessions labels") _kheish_words "--json --help" ;;
                "sessions compact") _kheish_words "--json --help" ;;
                "sessions end") _kheish_words "-m --reason --json --help" ;;
                "sessions set-model") _kheish_words "--reset --json --help" ;;
                "sessions set-mode") _kheish_words "--json --help" ;;
                "sessions budget") _kheish_words "--cost --tokens --steps --time --clear --json --help" ;;
                "sessions verify") _kheish_words "--all --json --help" ;;
                "sessions vacuum") _kheish_words "--all --json --help" ;;
                "sessions export") _kheish_words "-o --output --json --help" ;;
                "sessions import") _kheish_words "--json --help" ;;
                "runs list") _kheish_words "-s --session --session-id --active --limit --json --help" ;;
                "runs get") _kheish_words "--json --help" ;;
                "runs why") _kheish_words "--json --help" ;;
                "runs usage") _kheish_words "--by --json --help" ;;
                "runs debug") _kheish_words "--raw --json --help" ;;
                "runs wait") _kheish_words "--until --timeout --json --help" ;;
                "runs events") _kheish_words "--json --help" ;;
                "runs stream") _kheish_words "--cursor --json --help" ;;
                "runs cancel") _kheish_words "-m --reason --json --help" ;;
                "approvals list") _kheish_words "-s --session --session-id --json --help" ;;
                "approvals show") _kheish_words "--json --help" ;;
                "approvals allow") _kheish_words "--if-digest --raise -m --message --json --help" ;;
                "approvals deny") _kheish_words "--if-digest -m --message --json --help" ;;
                "approvals allow-all") _kheish_words "-s --session --session-id -m --message --json --help" ;;
                "approvals deny-all") _kheish_words "-s --session --session-id -m --message --json --help" ;;
                "questions list") _kheish_words "-s --session --session-id --json --help" ;;
                "questions show") _kheish_words "--json --help" ;;
                "questions answer") _kheish_words "--option --decline -m --message --json --help" ;;
                "questions decline") _kheish_words "-m --message --json --help" ;;
                "routes list") _kheish_words "--json --help" ;;
                "routes chains") _kheish_words "--json --help" ;;
                "routes get") _kheish_words "--json --help" ;;
                "routes add") _kheish_words "--driver --model --base-url --auth-ref --key-env --multimodal --text-only --price --context-tokens --if-revision --json --help" ;;
                "routes set") _kheish_words "--driver --model --base-url --auth-ref --key-env --multimodal --text-only --price --context-tokens --if-revision --json --help" ;;
                "routes remove") _kheish_words "--if-revision --json --help" ;;
                "routes test") _kheish_words "--model --auth --json --help" ;;
                "routes path") _kheish_words "--json --help" ;;
                "secrets set") _kheish_words "--from-env --json --help" ;;
                "secrets list") _kheish_words "--json --help" ;;
                "secrets get") _kheish_words "--json --help" ;;
                "secrets delete") _kheish_words "--force --json --help" ;;
                "secrets generate") _kheish_words "--show --json --help" ;;
                "secrets rotate-key") _kheish_words "--json --help" ;;
                "secrets import-env") _kheish_words "--json --help" ;;
                "runtime get") _kheish_words "--json --help" ;;
                "runtime set-model") _kheish_words "--reset --if-revision --json --help" ;;
                "runtime set-permission-mode") _kheish_words "--if-revision --json --help" ;;
                "runtime set-system-prompt") _kheish_words "--reset --if-revision --json --help" ;;
                "runtime set-debug-level") _kheish_words "--if-revision --json --help" ;;
                "runtime tool-limits") _kheish_words "--timeout-ms --output-bytes --reset --if-revision --json --help" ;;
                "runtime revisions") _kheish_words "--json --help" ;;
                "runtime rollback") _kheish_words "--if-revision --json --help" ;;
                "permissions check") _kheish_words "--tool --arg --input --mode -s --session --json --help" ;;
                "permissions matrix") _kheish_words "--json --help" ;;
                "permissions rules") _kheish_words "-s --session --always --json --help" ;;
                "permissions allow") _kheish_words "-s --session --json --help" ;;
                "permissions ask") _kheish_words "-s --session --json --help" ;;
                "permissions deny") _kheish_words "-s --session --json --help" ;;
                "permissions forget") _kheish_words "--json --help" ;;
                "permissions audit") _kheish_words "-s --session --json --help" ;;
                "daemon start") _kheish_words "--json --help" ;;
                "daemon stop") _kheish_words "--json --help" ;;
                "daemon restart") _kheish_words "--json --help" ;;
                "daemon check") _kheish_words "--json --help" ;;
                "daemon status") _kheish_words "--json --help" ;;
                "daemon run") _kheish_words "--help" ;;
                "daemon logs") _kheish_words "-f --follow -n --lines --json --help" ;;
                "daemon install") _kheish_words "--print --json --help" ;;
            esac ;;
        *) case $line:$((given - $# - 1)) in
               "attach:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "logs:"*) _kheish_words "$(kheish completion targets 2>/dev/null)" ;;
               "approve:"*) _kheish_words "$(kheish completion approvals 2>/dev/null)" ;;
               "deny:"*) _kheish_words "$(kheish completion approvals 2>/dev/null)" ;;
               "answer:"*) _kheish_words "$(kheish completion questions 2>/dev/null)" ;;
               "wait:"*) _kheish_words "$(kheish completion targets 2>/dev/null)" ;;
               "cancel:"*) _kheish_words "$(kheish completion targets 2>/dev/null)" ;;
               "interrupt:"*) _kheish_words "$(kheish completion targets 2>/dev/null)" ;;
               "replay:"*) _kheish_words "$(kheish completion runs 2>/dev/null)" ;;
               "doctor:"*) _kheish_words "all routes" ;;
               "completion:"*) _kheish_words "bash zsh fish man sessions runs approvals questions targets models routes secrets" ;;
               "sessions create:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions fork:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions get:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions input:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions events:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions stream:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions transcript:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions queue:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions edit:0") _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions edit:1") _kheish_words "$(kheish completion runs 2>/dev/null)" ;;
               "sessions move:0") _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions move:1") _kheish_words "$(kheish completion runs 2>/dev/null)" ;;
               "sessions withdraw:0") _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions withdraw:1") _kheish_words "$(kheish completion runs 2>/dev/null)" ;;
               "sessions pause:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions resume:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions interrupt:"*) _kheish_words "$(kheish completion targets 2>/dev/null)" ;;
               "sessions rename:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions label:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions labels:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions compact:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions end:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions set-model:0") _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions set-model:1") _kheish_words "$(kheish completion models 2>/dev/null)" ;;
               "sessions set-mode:0") _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions set-mode:1") _kheish_words "default accept_edits plan dont_ask bypass" ;;
               "sessions budget:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions verify:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions vacuum:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions export:"*) _kheish_words "$(kheish completion sessions 2>/dev/null)" ;;
               "sessions import:"*) COMPREPLY=($(compgen -f -- "$cur")) ;;
               "runs get:"*) _kheish_words "$(kheish completion runs 2>/dev/null)" ;;
               "runs why:"*) _kheish_words "$(kheish completion runs 2>/dev/null)" ;;
               "runs usage:"*) _kheish_words "$(kheish completion runs 2>/dev/null)" ;;
               "runs debug:"*) _kheish_words "$(kheish completion runs 2>/dev/null)" ;;
               "runs wait:"*) _kheish_words "$(kheish completion targets 2>/dev/null)" ;;
               "runs events:"*) _kheish_words "$(kheish completion runs 2>/dev/null)" ;;
               "runs stream:"*) _kheish_words "$(kheish completion runs 2>/dev/null)" ;;
               "runs cancel:"*) _kheish_words "$(kheish completion targets 2>/dev/null)" ;;
               "approvals show:"*) _kheish_words "$(kheish completion approvals 2>/dev/null)" ;;
               "approvals allow:"*) _kheish_words "$(kheish completion approvals 2>/dev/null)" ;;
               "approvals deny:"*) _kheish_words "$(kheish completion approvals 2>/dev/null)" ;;
               "questions show:"*) _kheish_words "$(kheish completion questions 2>/dev/null)" ;;
               "questions answer:"*) _kheish_words "$(kheish completion questions 2>/dev/null)" ;;
               "questions decline:"*) _kheish_words "$(kheish completion questions 2>/dev/null)" ;;
               "routes get:"*) _kheish_words "$(kheish completion routes 2>/dev/null)" ;;
               "routes add:"*) _kheish_words "$(kheish completion routes 2>/dev/null)" ;;
               "routes set:"*) _kheish_words "$(kheish completion routes 2>/dev/null)" ;;
               "routes remove:"*) _kheish_words "$(kheish completion routes 2>/dev/null)" ;;
               "routes test:"*) _kheish_words "$(kheish completion routes 2>/dev/null)" ;;
               "secrets set:"*) _kheish_words "$(kheish completion secrets 2>/dev/null)" ;;
               "secrets get:"*) _kheish_words "$(kheish completion secrets 2>/dev/null)" ;;
               "secrets delete:"*) _kheish_words "$(kheish completion secrets 2>/dev/null)" ;;
               "secrets generate:"*) _kheish_words "$(kheish completion secrets 2>/dev/null)" ;;
               "runtime set-model:"*) _kheish_words "$(kheish completion models 2>/dev/null)" ;;
               "runtime set-permission-mode:"*) _kheish_words "default accept_edits plan dont_ask bypass" ;;
               "runtime set-debug-level:"*) _kheish_words "off redacted full" ;;
           esac ;;
    esac
}

complete -F _kheish kheish
