#compdef magpie
# Completion of magpie for zsh. To switch it on, below compinit in ~/.zshrc: source <(magpie completion zsh)

_magpie() {
    local -a answer found
    answer=("${(@f)$("${(Q)words[1]}" __complete zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    [[ $words[CURRENT] == --*=* ]] && [[ $answer[1] != words ]] && compset -P '*='
    case $answer[1] in
    files) _files ;;
    dirs) _files -/ ;;
    *)
        found=("${(@)answer[2,-1]}")
        (( $#found )) && _describe -t words magpie found
        ;;
    esac
}

if [[ $funcstack[1] == _magpie ]]; then
    _magpie "$@"
else
    compdef _magpie magpie
fi
