/* GnuTLS, opened at first use. For this folder only. */
#ifndef OSTRICH_CRYPTO_GNUTLS_LIB_H
#define OSTRICH_CRYPTO_GNUTLS_LIB_H

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "base/library.h"

#define GNUTLS_CALLS(C) \
    C(gnutls_strerror) C(gnutls_free) C(gnutls_init) C(gnutls_deinit) C(gnutls_handshake) C(gnutls_bye) \
    C(gnutls_record_recv) C(gnutls_record_send) C(gnutls_record_check_pending) C(gnutls_record_get_direction) \
    C(gnutls_transport_set_int2) C(gnutls_priority_set_direct) C(gnutls_credentials_set) C(gnutls_server_name_set) \
    C(gnutls_certificate_server_set_request) C(gnutls_certificate_verify_peers3) C(gnutls_certificate_get_peers) \
    C(gnutls_certificate_verification_status_print) C(gnutls_certificate_type_get) \
    C(gnutls_certificate_allocate_credentials) C(gnutls_certificate_free_credentials) \
    C(gnutls_certificate_set_x509_trust_file) C(gnutls_certificate_set_x509_crl_file) \
    C(gnutls_certificate_set_x509_key_file2) C(gnutls_certificate_set_dh_params) \
    C(gnutls_certificate_set_known_dh_params) C(gnutls_anon_allocate_server_credentials) \
    C(gnutls_anon_free_server_credentials) C(gnutls_anon_allocate_client_credentials) \
    C(gnutls_anon_free_client_credentials) C(gnutls_anon_set_server_dh_params) \
    C(gnutls_anon_set_server_known_dh_params) C(gnutls_psk_allocate_server_credentials) \
    C(gnutls_psk_free_server_credentials) C(gnutls_psk_allocate_client_credentials) \
    C(gnutls_psk_free_client_credentials) C(gnutls_psk_set_server_credentials_file) \
    C(gnutls_psk_set_client_credentials) C(gnutls_psk_set_server_dh_params) C(gnutls_psk_set_server_known_dh_params) \
    C(gnutls_dh_params_init) C(gnutls_dh_params_deinit) C(gnutls_dh_params_import_pkcs3) C(gnutls_x509_crt_init) \
    C(gnutls_x509_crt_deinit) C(gnutls_x509_crt_import) C(gnutls_x509_crt_get_dn2) C(gnutls_x509_crt_list_import2) \
    C(gnutls_x509_crt_get_expiration_time) C(gnutls_x509_crt_get_activation_time) \
    C(gnutls_x509_crt_get_basic_constraints) C(gnutls_x509_crt_get_key_usage) C(gnutls_x509_crt_get_key_purpose_oid) \
    C(gnutls_x509_crt_list_verify)

typedef struct GnutlsApi {
    GNUTLS_CALLS(LIBRARY_POINTER)
} GnutlsApi;

/* The table lives for ever. Any thread. */
Error *gnutls_lib(const GnutlsApi **ret_lib) MUST_USE;

#endif
