# Completion of magpie for fish. To switch it on, in ~/.config/fish/config.fish: magpie completion fish | source

function __magpie_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    set -l word (commandline -ct)
    set -l answer ($program __complete fish $words "$word" 2>/dev/null)
    switch "$answer[1]"
        case files dirs
            # the value of --flag=value is completed by itself, and the flag put before it again
            set -l flag (string match -r -- '^--[^=]+=' "$word")
            set -l value (string replace -- "$flag" '' "$word")
            if test "$answer[1]" = files
                __fish_complete_path "$value"
            else
                __fish_complete_directories "$value"
            end | string replace -r -- '^' "$flag"
        case '*'
            set -e answer[1]
            printf '%s\n' $answer
    end
end

complete -c magpie -f -a '(__magpie_complete)'
