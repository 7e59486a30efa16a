# Completion of magpie for bash. To switch it on: source <(magpie completion bash)

_magpie() {
    local cur=${COMP_WORDS[COMP_CWORD]} kind='' line
    COMPREPLY=()
    [ "$cur" = "=" ] && cur=''
    while IFS= read -r line; do
        if [ -z "$kind" ]; then
            kind=$line
        else
            COMPREPLY+=("$line")
        fi
    done < <("${COMP_WORDS[0]}" __complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    case $kind in
    files) ;; # no words: what bash does by default
    dirs)
        while IFS= read -r line; do
            COMPREPLY+=("$line")
        done < <(compgen -d -- "$cur")
        compopt -o filenames 2>/dev/null
        ;;
    *)
        compopt +o default 2>/dev/null
        ;;
    esac
    return 0
}

complete -o default -F _magpie magpie
