#include "crypto/secret.h"

#include <string.h>

#include "crypto/cipher.h"

/* A key or pass phrase is short; a file that is longer is some other file. */
enum { SECRET_MAX = 1024 * 1024 };

typedef enum SecretFormat { SECRET_RAW, SECRET_BASE64 } SecretFormat;

typedef struct Secret {
    Object object;
    char *data, *file, *keyid, *iv;
    int format;
    uint8_t *bytes;
    gsize size;
} Secret;

static const EnumName formats[] = { { "raw", SECRET_RAW }, { "base64", SECRET_BASE64 }, { NULL, 0 } };

void secret_free(void *data, size_t size)
{
    if (data) {
        explicit_bzero(data, size);
        g_free(data);
    }
}

void secret_free_text(char *text)
{
    secret_free(text, text ? strlen(text) : 0);
}

static void wipe_text(char **text)
{
    secret_free_text(g_steal_pointer(text));
}

/* --- reading --- */

static Error *read_input(Secret *secret)
{
    if (!secret->data == !secret->file) {
        return error_new(secret->data ? "file= and data= both give the secret: give one of them" : "file= or data= must give the secret");
    }
    if (secret->data) {
        secret->size = strlen(secret->data);
        secret->bytes = (uint8_t *)g_strdup(secret->data);
        wipe_text(&secret->data); /* the property does not show it */
        return NULL;
    }
    g_autoptr(GError) gerr = NULL;
    gchar *content;
    if (!g_file_get_contents(secret->file, &content, &secret->size, &gerr)) {
        return error_new("unable to read %s: %s", secret->file, gerr->message);
    }
    secret->bytes = (uint8_t *)content;
    return secret->size > SECRET_MAX ? error_new("%s is too large for a secret", secret->file) : NULL;
}

/* Base 64 with nothing but its characters and line ends; *size becomes that of the bytes. */
static Error *decode_base64(const char *what, uint8_t **bytes, gsize *size)
{
    char *text = (char *)*bytes;
    size_t length = 0;

    for (gsize n = 0; n < *size; n++) {
        if (!strchr("\r\n", text[n])) {
            text[length++] = text[n];
        }
    }
    text[length] = 0;
    size_t plain = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
    size_t padding = strspn(text + plain, "=");
    if (plain + padding != length || length % 4 || padding > 2 || strlen(text) != length) {
        return error_new("%s is not in base 64", what);
    }
    gsize decoded_size;
    uint8_t *decoded = length ? g_base64_decode(text, &decoded_size) : (uint8_t *)g_strdup("");
    secret_free(*bytes, *size);
    *bytes = decoded;
    *size = length ? decoded_size : 0;
    return NULL;
}

static Error *remove_padding(Secret *secret)
{
    uint8_t count = secret->size ? secret->bytes[secret->size - 1] : 0;

    if (count == 0 || count > 16 || count > secret->size) {
        return error_new("the secret does not decrypt with the key '%s'", secret->keyid);
    }
    for (unsigned n = 1; n <= count; n++) {
        if (secret->bytes[secret->size - n] != count) {
            return error_new("the secret does not decrypt with the key '%s'", secret->keyid);
        }
    }
    secret->size -= count;
    return NULL;
}

/* The bytes are AES-256-CBC with PKCS #7 padding under another secret. */
static Error *decrypt_with(Secret *secret, const uint8_t *key, size_t key_size)
{
    uint8_t *iv = (uint8_t *)g_strdup(secret->iv);
    gsize iv_size = strlen(secret->iv);
    g_autoptr(Cipher) cipher = NULL;

    Error *err = decode_base64("'iv'", &iv, &iv_size);
    if (!err && iv_size != 16) {
        err = error_new("'iv' has %zu bytes, it must have 16", (size_t)iv_size);
    }
    if (!err && secret->size % 16) {
        err = error_new("an encrypted secret is a multiple of 16 bytes");
    }
    if (!err) {
        err = cipher_new(CIPHER_AES_256, CIPHER_CBC, key, key_size, &cipher);
    }
    if (!err) {
        err = cipher_decrypt(cipher, iv, secret->bytes, secret->bytes, secret->size);
    }
    g_free(iv);
    return err ? err : remove_padding(secret);
}

static Error *decrypt(Secret *secret)
{
    uint8_t *key;
    size_t key_size;

    if (!secret->iv) {
        return error_new("a secret with 'keyid' needs 'iv'");
    }
    TRY(secret_get(secret->object.parent, secret->keyid, &key, &key_size));
    Error *err = decrypt_with(secret, key, key_size);
    secret_free(key, key_size);
    return err;
}

static Error *complete(Object *obj)
{
    Secret *secret = (Secret *)obj;

    TRY(read_input(secret));
    if (secret->format == SECRET_BASE64) {
        TRY(decode_base64("the secret", &secret->bytes, &secret->size));
    }
    return secret->keyid ? decrypt(secret) : NULL;
}

static void finalize(Object *obj)
{
    Secret *secret = (Secret *)obj;

    secret_free(secret->bytes, secret->size);
    wipe_text(&secret->data);
}

static const Prop props[] = {
    PROP_STR("data", Secret, data, .help = "the secret itself"),
    PROP_STR("file", Secret, file, .help = "file that holds it"),
    PROP_ENUM("format", Secret, format, formats, SECRET_RAW, .help = "how data or file have it"),
    PROP_STR("keyid", Secret, keyid, .help = "ID of the secret that it is encrypted with"),
    PROP_STR("iv", Secret, iv, .help = "initial vector of the encryption, base 64"),
    { 0 },
};

const ObjectType secret_type = {
    .name = "secret", .size = sizeof(Secret), .props = props, .complete = complete, .finalize = finalize,
};
OBJECT_REGISTER(&secret_type);

/* --- for users --- */

Error *secret_get(const Object *objects, const char *id, uint8_t **ret_data, size_t *ret_size)
{
    Object *obj = object_child(objects, id);

    if (!obj || obj->type != &secret_type) {
        return error_hint(obj ? error_new("Object with id '%s' is a %s, not a secret", id, obj->type->name)
                              : error_new("No secret with id '%s'", id),
                          "-object secret,id=%s,file=... makes one.", id);
    }
    const Secret *secret = (Secret *)obj;
    *ret_data = g_malloc0(secret->size + 1);
    memcpy(*ret_data, secret->bytes, secret->size);
    *ret_size = secret->size;
    return NULL;
}

Error *secret_get_text(const Object *objects, const char *id, char **ret_text)
{
    uint8_t *data;
    size_t size;

    TRY(secret_get(objects, id, &data, &size));
    if (!g_utf8_validate((char *)data, (gssize)size, NULL) || strlen((char *)data) != size) {
        secret_free(data, size);
        return error_new("the secret '%s' is not text in UTF-8", id);
    }
    *ret_text = (char *)data;
    return NULL;
}
