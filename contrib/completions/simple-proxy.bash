# bash completion for simple-proxy
# Made by `make completions` from the table of flags in src/cli/flags.rs.

_simple_proxy() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} words
    # Bash makes three words of --name=value.
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    COMPREPLY=()
    case $before in
        --tls) words='auto on off' ;;
        --tls-min) words='1.0 1.1 1.2 1.3' ;;
        --map) words='auto off' ;;
        --log-lang) words='zh en' ;;
        --log-format) words='text json combined' ;;
        --listen-cert | --listen-key | --tls-ca | --tls-cert | --tls-key)
            compopt -o default
            return
            ;;
        -u | --upstream-host | -p | --listen-port | -b | --bind | --allow | \
            --listen-mode | -s | --socks-proxy | --http-proxy | --https-proxy | \
            --tls-name | --host-header | --upgrade | --header | --response-header | \
            --allow-host | --allow-origin | --connect-timeout | --head-timeout | \
            --response-timeout | --abandon-timeout | --keepalive-timeout | \
            --tunnel-timeout | --drain-timeout | --upstream-idle | --spares | \
            --max-head | --threads | --max-connections | --health-path | \
            --metrics-listen | --status-listen | --check-path)
            return
            ;;
        *)
            [[ $word == -* ]] || return
            words='-h --help -u --upstream-host -p --listen-port -b --bind --allow
                --listen-mode --listen-cert --listen-key -s --socks-proxy --http-proxy
                --https-proxy -d --direct --tls --tls-name --tls-verify --tls-ca
                --tls-cert --tls-key --tls-min --host-header --upgrade --forwarded
                --map --header --response-header --allow-host --allow-origin
                --connect-timeout --head-timeout --response-timeout --abandon-timeout
                --keepalive-timeout --tunnel-timeout --drain-timeout --upstream-idle
                --spares --max-head --threads --max-connections --health-path
                --metrics-listen --status-listen --log-lang --log-format -q --quiet -v
                --verbose --check --check-path -V --version'
            ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -F _simple_proxy simple-proxy
