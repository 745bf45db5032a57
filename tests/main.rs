//! End-to-end tests over the real binary, one file per topic. Run by libtest-mimic, in
//! which a test whose real peer is not installed is shown and counted as ignored.

mod bound;
mod check;
mod completions;
mod documents;
mod door;
mod drain;
mod faults;
mod http;
mod leaving;
mod names;
mod origin;
mod peers;
mod pool;
mod proxies;
mod regression;
mod rooms;
mod route;
mod settings;
mod shared;
mod spares;
mod status;
mod storms;
mod strict;
mod support;
mod unix;
mod upgrade;
mod watch;

use libtest_mimic::{Arguments, Trial};

/// Makes a trial of each named function of a topic.
macro_rules! trials {
    ($($topic:ident: $($name:ident),+ $(,)?);+ $(;)?) => {
        vec![$($(Trial::test(
            concat!(stringify!($topic), "::", stringify!($name)),
            || { $topic::$name(); Ok(()) },
        ),)+)+]
    };
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Each test is mostly waiting for processes; two at least overlap on any machine.
    arguments.test_threads.get_or_insert(4);
    // Some have thousands of sockets.
    support::allow_descriptors(4096);
    let mut all = trials! {
        rooms:
            use_only_those_below_them,
            the_ways_through_the_code_lead_there,
            ask_for_portable_and_not_for_its_feature;
        settings:
            help_and_version_go_to_stdout,
            a_bad_setting_is_one_line_and_exit_2,
            keys_are_read_in_every_form_or_refused_with_a_remedy,
            a_port_in_use_is_exit_1,
            variables_work_and_flags_override_them,
            listen_port_0_logs_the_port_taken,
            no_credential_is_ever_printed,
            closed_and_full_outputs_do_no_harm;
        route:
            direct_and_dual_stack,
            socks5_sends_addresses_as_addresses_and_names_as_names,
            socks5_answers_that_curl_takes_are_taken,
            connect_sends_host_and_basic,
            connect_through_a_tls_proxy,
            bytes_behind_the_proxys_answer_belong_to_the_upstream,
            every_failure_is_a_status_a_stage_and_a_cause,
            time_runs_out_in_every_stage,
            a_broken_proxy_never_falls_back_to_direct,
            tls_names,
            tls_verification,
            http_1_1_is_negotiated;
        unix:
            an_upstream_on_a_unix_socket,
            tls_over_a_unix_socket,
            a_socks_proxy_on_a_unix_socket,
            clients_on_a_unix_socket,
            an_inherited_unix_socket;
        proxies:
            one_that_does_not_answer_is_passed_over,
            what_a_proxy_says_is_final,
            without_any_that_answers_none_goes_direct,
            nobody_waits_for_a_probe,
            one_that_is_back_serves_again,
            the_check_walks_each;
        http:
            host_and_fields_arrive_as_they_were_sent,
            keep_alive_and_pipelining,
            bodies_of_every_framing,
            responses_of_every_framing,
            trailers_pass,
            responses_without_a_body,
            expect_and_interim_responses,
            http_1_0_clients,
            an_early_answer_is_delivered,
            a_client_that_ends_its_side_still_gets_its_answer,
            server_sent_events_arrive_one_by_one,
            the_pool_reuses_and_retries,
            a_post_is_never_sent_twice,
            a_race_with_the_upstreams_end_is_told_by_silence,
            surplus_bytes_reach_nobody,
            a_response_cut_short_is_seen_as_such,
            a_close_delimited_body_in_tls_is_cut_or_whole,
            a_request_head_may_be_as_long_as_max_head_says,
            a_gigabyte_each_way_in_constant_memory,
            bad_requests_are_answered_and_not_forwarded,
            errors_keep_the_connection_where_they_can,
            three_vhosts_on_one_tls_address;
        pool:
            one_kept_connection_serves_all_threads,
            posts_to_an_upstream_that_closes_unannounced,
            posts_alone_reuse_what_the_upstream_keeps,
            a_promise_of_the_upstream_is_kept,
            a_kept_connection_that_the_upstream_ends_is_closed_at_once,
            an_upgrade_takes_a_kept_connection,
            hand_over_loses_doubles_and_crosses_nothing;
        storms:
            one_at_a_time_none_fails,
            many_at_once_are_all_answered,
            a_request_waits_for_the_end_of_a_tunnel,
            the_oldest_kept_connection_gives_way,
            a_refused_port_is_told_at_once;
        spares:
            an_upgrade_takes_a_spare_connection,
            there_are_never_more_than_asked_for,
            an_old_one_is_renewed,
            pauses_after_failures_double;
        origin:
            a_plain_upstream_gets_and_sends_every_field_as_it_is,
            what_names_one_origin_names_the_other,
            a_websocket_passes_the_check_of_its_origin,
            a_rebound_name_is_not_translated_and_the_log_says_so,
            nothing_is_translated_with_map_off,
            fields_of_ones_own,
            fields_that_cannot_be_set_are_refused_without_their_value,
            a_credential_serves_no_foreign_page,
            only_hosts_that_are_listed_are_served,
            origins_that_are_listed_are_served,
            forwarded_goes_on_from_a_trusted_front,
            a_front_that_terminates_tls;
        upgrade:
            the_documented_lines_are_logged_exactly,
            english_lines,
            nothing_goes_upstream_before_the_101,
            first_frames_in_the_segment_of_the_handshake_arrive,
            two_hundred_at_once_byte_exact,
            a_64_mib_message_survives,
            what_the_upstream_sent_before_closing_arrives,
            what_the_client_sent_before_closing_arrives,
            a_client_that_goes_on_sending_loses_nothing,
            a_client_that_ends_its_side_still_gets_everything,
            a_refused_upgrade_is_an_ordinary_response,
            a_switch_that_was_not_asked_for_is_502,
            other_protocols_pass_only_when_allowed,
            docker_exec_is_a_post_with_a_body,
            kubectl_exec_is_a_post_without_a_body,
            a_switch_before_the_whole_request_is_502,
            of_several_protocols_one_goes_on_and_the_rest_is_told,
            a_reset_ends_both_sides,
            an_idle_relay_is_closed_when_asked,
            a_relay_of_which_one_side_has_ended_rests_for_ten_seconds;
        bound:
            who_has_logged_in_is_nobody_else,
            a_request_between_two_steps_of_a_login_is_nobodys,
            a_websocket_opens_behind_a_login,
            an_upgrade_with_bytes_behind_it_is_closed_by_401,
            the_upstreams_end_is_the_clients,
            the_clients_end_is_the_upstreams,
            an_answer_that_closes_closes_both,
            a_login_over_tls_is_for_one_name,
            many_logins_at_once_and_strangers_between,
            an_offer_alone_binds_nothing;
        status:
            the_page_is_for_people_at_this_machine,
            the_metrics_port_has_no_page,
            the_numbers_are_those_of_the_program,
            failures_name_their_cause_and_the_remedy;
        leaving:
            the_clients_end_is_passed_on,
            a_prompt_answer_comes_before_the_end,
            a_pipelined_request_is_no_end,
            what_is_left_behind_is_let_go,
            a_download_to_a_client_that_has_ended_its_side_is_whole,
            who_leaves_during_the_dial_holds_nothing,
            an_upgrade_is_not_dialled_for_who_has_left,
            a_reset_that_a_write_meets_ends_a_relay,
            urgent_data_does_not_stall_a_stream;
        drain:
            sigterm_finishes_what_is_open,
            sigterm_ends_idle_connections_and_relays_in_time,
            a_second_signal_ends_at_once,
            more_clients_than_allowed_wait_their_turn,
            a_restart_on_an_inherited_socket_fails_no_request,
            the_service_manager_is_told,
            sockets_that_are_none_are_refused;
        faults:
            a_trickle_does_not_stretch_the_head_timeout,
            an_idle_connection_is_closed_after_the_keepalive_timeout,
            a_stalled_request_body_ends,
            a_stalled_response_body_ends,
            a_slow_body_is_not_a_stalled_one,
            a_client_that_stops_reading_is_cut_off,
            idle_and_trickling_clients_hold_nobody_up,
            a_client_that_stops_reading_stops_the_upstream,
            an_upstream_that_stops_reading_stops_the_client,
            without_descriptors_clients_wait_and_are_served_later,
            a_log_that_nobody_reads_stalls_nobody,
            a_closed_log_does_no_harm,
            an_upstream_that_resets_before_its_response_is_502,
            an_upstream_that_resets_within_its_body_cuts_the_client,
            an_upstream_that_resets_during_an_upload_ends_it,
            a_proxy_that_ends_after_any_byte_of_its_answer_is_an_error,
            a_proxys_answer_may_come_byte_by_byte,
            a_client_that_resets_leaves_nothing_behind,
            a_killed_peer_is_a_closed_one,
            keepalive_is_set_on_both_legs,
            a_drain_under_load_cuts_nothing_that_was_begun,
            many_tls_handshakes_at_once_hold_nobody_up;
        door:
            a_flood_behind_a_reset_holds_nobody_up,
            the_longest_idle_client_gives_way,
            silent_clients_and_unfinished_heads_give_way_first,
            busy_clients_are_never_closed_upon,
            beyond_the_limit_a_head_is_read_and_health_is_answered,
            silent_readers_of_the_metrics_hold_nobody_up,
            only_clients_that_are_allowed_are_served,
            a_limit_that_the_descriptors_cannot_carry_is_lowered,
            a_loop_is_refused,
            signals_end_the_program_or_are_ignored;
        strict:
            content_length_with_transfer_encoding,
            content_lengths,
            transfer_encodings,
            chunk_framing,
            request_trailers,
            field_lines,
            control_bytes,
            hosts,
            targets,
            connection_options,
            connection_options_against_forwarded_fields,
            request_lines,
            other_protocols,
            empty_lines,
            sizes,
            pipelined_requests,
            upgrade_requests,
            status_lines,
            response_fields,
            response_framing,
            responses_cut_short,
            responses_without_content,
            interim_responses,
            surplus_bytes,
            surplus_bytes_while_idle,
            early_answers,
            refused_upgrades,
            accepted_upgrades,
            clients_that_leave_before_the_101,
            forged_log_lines,
            every_class_ran;
        check:
            settings_are_shown_with_their_sources,
            every_setting_is_shown,
            the_origins_are_shown_and_what_they_break,
            a_route_through_a_proxy_to_tls,
            broken_routes_are_named,
            json_is_one_object,
            interim_answers_are_passed_over;
        watch:
            health_is_answered_here,
            metrics_count_what_happened,
            metrics_tell_the_stage_that_failed,
            the_metrics_port_serves_nothing_else,
            json_lines_are_objects,
            verbose_lines_have_numbers_and_times;
        completions:
            match_the_flags,
            offer_words_that_are_accepted;
        documents:
            every_flag_and_variable_is_documented,
            promised_log_lines_are_documented;
        regression:
            a_socks_proxy_that_takes_one_segment_for_one_message,
            a_client_that_resets_while_it_waits_frees_the_upstream,
            a_long_log_line_does_not_block,
            an_upstream_that_does_not_read_an_upload_is_504,
            stalled_downloads_leave_descriptors_for_others,
            a_log_reader_that_stops_at_any_moment_stops_no_thread,
            a_client_that_does_not_read_our_own_answers_is_let_go,
            a_stuck_relay_notices_the_end_of_the_sender,
            bytes_behind_a_last_request_do_not_cut_its_answer,
            empty_lines_without_end_are_refused,
            connection_options_without_end_are_refused,
            part_of_a_record_disqualifies_a_kept_connection,
            interim_answers_to_connect_are_passed_over,
            an_empty_line_behind_a_request_begins_no_other,
            a_length_of_zero_is_no_body,
            an_answer_that_came_while_the_process_was_stopped_is_delivered,
            an_upstream_that_does_not_answer_an_expectation_is_504,
            the_first_lines_come_also_under_load,
            a_proxy_s_own_words_are_for_the_log,
            a_broken_record_behind_a_full_one_is_no_end_of_a_body,
            what_is_cut_off_has_last_words;
    };
    all.extend(completions::trials());
    all.extend(peers::trials());
    libtest_mimic::run(&arguments, all).exit();
}
