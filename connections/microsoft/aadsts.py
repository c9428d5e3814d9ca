"""What each AADSTS number of Microsoft Entra ID means to people, as data.

Names and meanings: Microsoft: identity-platform/reference-error-codes. Numbers missing there come
from real answers. Classes, sentences, and who must act are ours. docs/what-went-wrong.md is
written from this table.
"""

from connections.microsoft.error_types import ErrorMeaning, Kind, Who

Rows = dict[int, tuple[str, str]]  # number: (Microsoft's name, what happened)
Table = dict[int, ErrorMeaning]


def _group(
    kind: Kind,
    who: Who,
    action: str,
    rows: Rows,
    *,
    certain: bool = False,
    app_wide: bool = False,
    credential: bool = False,
    vague: bool = False,
) -> Table:
    return {
        number: ErrorMeaning(kind, who, cause, action, name, certain, app_wide, credential, vague)
        for number, (name, cause) in rows.items()
    }


def _join(*groups: Table) -> Table:
    table: Table = {}
    for group in groups:
        if twice := table.keys() & group.keys():
            raise ValueError(f"two rows for {sorted(twice)}")
        table.update(group)
    return dict(sorted(table.items(), key=lambda row: row[0]))


SIGN_IN = _join(
    _group(
        Kind.REAUTH,
        Who.OWNER,
        "The owner must sign in again.",
        certain=True,
        rows={
            50085: ("", "Microsoft wants a fresh sign-in with the account's user name and password."),
            50132: ("SsoArtifactInvalidOrExpired", "The password expired or was changed, so the session has ended."),
            50133: ("SsoArtifactRevoked", "The password expired or was changed, so the session has ended."),
            50173: ("FreshTokenNeeded", "The stored sign-in was revoked, by an administrator or by the person."),
            70008: ("ExpiredOrRevokedGrant", "The stored sign-in has expired because it was not used for too long."),
            700081: ("", "The stored sign-in has reached the longest life Microsoft allows it."),
            700082: (
                "ExpiredOrRevokedGrantInactiveToken",
                "The stored sign-in was not used for too long (usually 90 days) and has expired.",
            ),
        },
    ),
    _group(
        Kind.REAUTH,
        Who.OWNER,
        "The owner must sign in again.",
        rows={
            16001: ("UserAccountSelectionInvalid", "The account picked on Microsoft's page could not be used."),
            16002: ("AppSessionSelectionInvalid", "The Microsoft session asked for is not there."),
            160021: ("AppSessionSelectionInvalidSessionNotExist", "The Microsoft session asked for does not exist."),
            40009: ("OAuth2IdPRefreshTokenRedemptionUserError", "The outside sign-in service refused the account."),
            40015: ("OAuth2IdPAuthCodeRedemptionUserError", "The outside sign-in service refused the account."),
            50056: ("", "Microsoft holds no password for this account, or it was not entered."),
            50058: ("UserInformationNotProvided", "The person is not signed in at Microsoft."),
            50064: ("CredentialAuthenticationError", "The user name or the password was not accepted."),
            50086: ("SasNonRetryableError", "The second sign-in step (multi-factor authentication) failed."),
            50089: ("", "The sign-in took too long and has expired."),
            50126: ("InvalidUserNameOrPassword", "The user name or the password was wrong."),
            50136: ("RedirectMsaSessionToApp", "A personal Microsoft session was found that has to sign in by itself."),
            50139: ("SessionMissingMsaOAuth2RefreshToken", "The session lacks a token of the outside sign-in service."),
            50140: ("KmsiInterrupt", "Microsoft stopped to ask whether to stay signed in."),
            50143: ("", "The session belongs to another tenant than the one asked for."),
            50168: ("ChromeBrowserSsoInterruptRequired", "The browser's single sign-on did not deliver a valid token."),
            50180: ("WindowsIntegratedAuthMissing", "Microsoft wants a sign-in with Windows, and none was made."),
            50192: ("RawCredentialExpectedNotFound", "The sign-in held no password or personal certificate."),
            50197: ("ConflictingIdentities", "Microsoft could not tell which account was meant."),
            50199: ("CmsiInterrupt", "Microsoft stopped to ask the person to confirm the app."),
            51006: ("ForceReauthDueToInsufficientAuth", "Microsoft wants a fresh sign-in with Windows."),
            54005: ("", "The one-time sign-in code was used twice; often the page was loaded again."),
            700020: ("InteractionRequired", "Microsoft wants the person to be there and sign in."),
            70018: ("BadVerificationCode", "The code typed on the sign-in page was wrong."),
            70019: ("CodeExpired", "The code for the sign-in page was not used in time."),
            81004: ("DesktopSsoIdentityInTicketIsNotAuthenticated", "Windows single sign-on did not work."),
            81005: ("DesktopSsoAuthenticationPackageNotSupported", "Windows single sign-on did not work."),
            81006: ("DesktopSsoNoAuthorizationHeader", "Windows single sign-on did not work."),
            81009: ("DesktopSsoAuthorizationHeaderValueWithBadFormat", "Windows single sign-on did not work."),
            81010: ("DesktopSsoAuthTokenInvalid", "The Windows single sign-on ticket has expired or is invalid."),
            81011: ("DesktopSsoLookupUserBySidFailed", "Windows single sign-on did not find the account."),
            81012: ("DesktopSsoMismatchBetweenTokenUpnAndChosenUpn", "Another account is signed in on this device."),
            90119: ("InvalidUserCode", "No code was typed on the sign-in page."),
            90120: ("InvalidDeviceFlowRequest", "This sign-in was already finished or declined."),
            9002341: ("", "Microsoft wants the person to agree to being signed in."),
        },
    ),
    _group(
        Kind.REAUTH,
        Who.OWNER,
        "The owner must sign in again.",
        vague=True,
        rows={70000: ("InvalidGrant", "Microsoft no longer accepts the stored sign-in and does not say why.")},
    ),
    _group(
        Kind.REAUTH,
        Who.OWNER,
        "The owner must sign in again and pass multi-factor authentication.",
        certain=True,
        rows={
            50074: (
                "UserStrongAuthClientAuthNRequiredInterrupt",
                "Multi-factor authentication was asked for and not passed.",
            ),
            50076: (
                "UserStrongAuthClientAuthNRequired",
                "The organisation now asks for multi-factor authentication, or the sign-in came from a new place.",
            ),
            50078: ("UserStrongAuthExpired", "The last multi-factor authentication is too long ago."),
            50158: ("ExternalSecurityChallenge", "An outside security check of the organisation was not passed."),
        },
    ),
    _group(
        Kind.REAUTH,
        Who.OWNER,
        "The owner must sign in again and set up multi-factor authentication on the way.",
        certain=True,
        rows={
            50072: (
                "UserStrongAuthEnrollmentRequiredInterrupt",
                "The account must set up multi-factor authentication.",
            ),
            50079: (
                "UserStrongAuthEnrollmentRequired",
                "The organisation asks the account to set up multi-factor authentication.",
            ),
        },
    ),
    _group(
        Kind.REAUTH,
        Who.OWNER,
        "The owner must set a new password at Microsoft and then sign in again.",
        certain=True,
        rows={
            50055: ("InvalidPasswordExpiredPassword", "The account's password has expired."),
            50125: (
                "PasswordResetRegistrationRequiredInterrupt",
                "The account must set its password or its recovery details.",
            ),
            50135: (
                "PasswordChangeCompromisedPassword",
                "The password must be changed because the account is at risk.",
            ),
            50144: (
                "InvalidPasswordExpiredOnPremPassword",
                "The account's password in the organisation's own directory has expired.",
            ),
        },
    ),
    _group(
        Kind.REAUTH,
        Who.OWNER,
        "The owner must finish changing the password at Microsoft and then sign in again.",
        rows={
            120000: (
                "PasswordChangeIncorrectCurrentPassword",
                "The current password was typed wrong when changing it.",
            ),
            120002: ("PasswordChangeInvalidNewPasswordWeak", "The new password is too weak."),
            120003: ("PasswordChangeInvalidNewPasswordContainsMemberName", "The new password holds the person's name."),
            120004: ("PasswordChangeOnPremComplexity", "The new password breaks the organisation's password rules."),
            120018: (
                "PasswordChangePasswordDoesnotComplyFuzzyPolicy",
                "The new password breaks the organisation's password rules.",
            ),
            120020: ("PasswordChangeFailure", "Changing the password did not work."),
        },
    ),
    _group(
        Kind.REAUTH,
        Who.OWNER,
        "The owner must sign in with an account of this tenant; if the old account is gone, an IT admin can restore it or"
        " hand the connection over.",
        certain=True,
        rows={50034: ("UserAccountNotFound", "The account does not exist in this tenant; it may have been deleted.")},
    ),
    _group(
        Kind.REAUTH,
        Who.OWNER,
        "The owner must sign in with an account of this tenant, or ask an IT admin to invite this one as a guest.",
        rows={16000: ("InteractionRequired", "The account used is not an account of this tenant.")},
    ),
    _group(
        Kind.REAUTH,
        Who.OWNER,
        "The owner must sign in again; an IT admin can relax the sign-in frequency for this app to make it rarer.",
        certain=True,
        rows={
            70043: (
                "BadTokenDueToSignInFrequency",
                "A rule of the organisation asks people to sign in again from time to time.",
            ),
            70044: ("", "A rule of the organisation asks people to sign in again from time to time."),
        },
    ),
    _group(
        Kind.REAUTH,
        Who.OWNER,
        "The owner must sign in again; first an IT admin should move the redirect URI to the platform Web, or it breaks again.",
        certain=True,
        rows={
            700084: (
                "",
                "The app registration's redirect URI is of the kind single-page application, which lives one day only.",
            ),
        },
    ),
)

CONSENT = _join(
    _group(
        Kind.CONSENT,
        Who.IT_ADMIN,
        "An IT admin must grant consent; where people may agree themselves, the owner can sign in again instead.",
        certain=True,
        rows={
            65001: ("DelegationDoesNotExist", "A permission this connection needs is not granted, or was withdrawn."),
            90008: (
                "TokenForItselfRequiresGraphPermission",
                "Nobody has agreed that the app may sign people in and read their profile.",
            ),
        },
    ),
    _group(
        Kind.CONSENT,
        Who.IT_ADMIN,
        "An IT admin must grant consent.",
        certain=True,
        rows={
            90093: ("GraphUserUnauthorized", "This account may not grant the permissions that were asked for."),
            90094: ("AdminConsentRequired", "The permissions asked for can only be granted by an administrator."),
            90095: ("AdminConsentRequiredRequestAccess", "The person was told to ask an administrator for approval."),
            90099: ("", "The app was not approved in the tenant it wants to reach as a partner."),
        },
    ),
    _group(
        Kind.CONSENT,
        Who.IT_ADMIN,
        "An IT admin must grant consent in this tenant, which also adds the app there.",
        certain=True,
        app_wide=True,
        rows={7000229: ("", "The app has never been added to this tenant.")},
    ),
    _group(
        Kind.CONSENT,
        Who.OWNER,
        "The owner can start again and agree, or ask an IT admin to grant consent.",
        rows={
            52004: ("DelegationDoesNotExistForLinkedIn", "The person has not agreed to sharing with LinkedIn."),
            65004: ("UserDeclinedConsent", "The permissions were declined on Microsoft's page."),
        },
    ),
)

CREDENTIALS = _join(
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must enter a valid client secret or certificate.",
        certain=True,
        app_wide=True,
        credential=True,
        rows={
            50012: ("AuthenticationFailed", "Microsoft does not accept the app registration's secret or certificate."),
            7000218: ("", "The request held neither a client secret nor a certificate."),
            7000222: ("InvalidClientSecretExpiredKeysProvided", "The app registration's client secret has expired."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must enter a valid client secret: its Value, not its Secret ID.",
        certain=True,
        app_wide=True,
        credential=True,
        rows={7000215: ("", "The app registration's client secret is wrong.")},
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must upload the same certificate in Entra and in the portal.",
        certain=True,
        app_wide=True,
        credential=True,
        rows={
            50048: ("SubjectMismatchesIssuer", "The signed proof of the app names two different apps."),
            700027: ("", "Microsoft does not know the certificate that was used, or its signature is wrong."),
            700030: ("", "The certificate's name is not allowed for this app."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must set the server's clock right; then the portal goes on by itself.",
        app_wide=True,
        credential=True,
        rows={700024: ("", "The signed proof of the app was outside its time; usually the server's clock is wrong.")},
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must check the server's clock and the app registration's certificate.",
        app_wide=True,
        rows={
            50013: ("InvalidAssertion", "A signed proof was too old, too new or damaged."),
            500133: ("", "A signed proof was outside its time."),
            50027: ("InvalidJwtToken", "A signed proof was damaged, too old, or meant for somebody else."),
            900384: ("", "The signature of a signed proof is wrong."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must check the federated credential of the app registration; a new one needs some minutes to work.",
        app_wide=True,
        credential=True,
        rows={
            70021: ("", "No federated credential of the app registration fits the proof that was sent."),
            700229: ("ForbiddenTokenType", "A person's token was sent where only an app's token can be used."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must enter a valid client secret or certificate.",
        app_wide=True,
        credential=True,
        vague=True,
        rows={70002: ("InvalidClient", "Microsoft does not accept the credentials that were sent.")},
    ),
)

APP_REGISTRATION = _join(
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must check the client id and the tenant, or grant consent so that the app is added there.",
        certain=True,
        app_wide=True,
        rows={
            70001: ("UnauthorizedClient", "The app is disabled, or does not exist in this tenant."),
            700011: ("UnauthorizedClientAppNotFoundInOrgIdTenant", "The app does not exist in this tenant."),
            700016: ("UnauthorizedClient_DoesNotMatchRequest", "The app was not found in this tenant."),
            700038: ("", "The client id is not the id of an app."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must enable the app again in Entra.",
        certain=True,
        app_wide=True,
        rows={7000112: ("UnauthorizedClientApplicationDisabled", "The app was disabled.")},
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must register the portal's exact redirect URI with the app, on the platform Web.",
        certain=True,
        app_wide=True,
        rows={
            50011: ("InvalidReplyTo", "The portal's redirect URI is not registered with the app."),
            500113: ("", "The app has no redirect URI at all."),
            70004: ("InvalidRedirectUri", "The portal's redirect URI is not registered with the app."),
            700025: (
                "InvalidClientPublicClientWithCredential",
                "The redirect URI is registered for a mobile or desktop app.",
            ),
            900971: ("", "No redirect URI was given."),
            9002325: ("", "The redirect URI is registered for a single-page application."),
            9002327: ("", "The redirect URI is registered for a single-page application."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must enter the tenant's own directory id, or make the app multi-tenant.",
        certain=True,
        app_wide=True,
        rows={
            50194: ("", "The app is for one tenant only, but was used for all tenants."),
            50059: (
                "MissingTenantRealmAndNoUserInformationProvided",
                "The request does not say which tenant is meant.",
            ),
            90019: ("MissingTenantRealm", "The request does not say which tenant is meant."),
            9001023: ("", "This kind of request needs one tenant, not the address for all."),
            9002331: ("", "The app is for personal accounts only, but was used for work accounts."),
            9002332: ("", "The app is for work accounts only, but was used for personal ones."),
            90124: (
                "V1ResourceV2GlobalEndpointNotSupported",
                "The service asked for needs one tenant, not the address for all.",
            ),
            90130: (
                "NonConvergedAppV2GlobalEndpointNotSupported",
                "The app needs one tenant, not the address for all.",
            ),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must correct the tenant's directory id or its environment.",
        certain=True,
        app_wide=True,
        rows={
            50029: ("", "The tenant's name holds characters that are not allowed."),
            50049: ("NoSuchInstanceForDiscovery", "There is no Microsoft cloud at this address."),
            50107: ("InvalidRealmUri", "The tenant's sign-in domain does not exist."),
            50128: ("", "No tenant has this domain name."),
            50169: ("InvalidRequestBadRealm", "The tenant's sign-in domain is not set up here."),
            90002: ("InvalidTenantName", "The tenant was not found; it may belong to another Microsoft cloud."),
            900023: ("", "The tenant's id is neither a directory id nor a domain name."),
            90038: ("NationalCloudTenantRedirection", "The tenant belongs to another Microsoft cloud."),
            900382: ("", "The app and the tenant belong to different Microsoft clouds."),
            90043: ("NationalCloudAuthCodeRedirection", "The sign-in belongs to another Microsoft cloud."),
            900432: ("", "The app and the tenant belong to different Microsoft clouds."),
            90051: ("InvalidNationalCloudId", "There is no such Microsoft cloud."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must add the permission to the app registration in Entra and grant consent.",
        certain=True,
        rows={
            650056: ("", "The app registration lacks a permission, or nobody has granted consent."),
            650057: ("", "The app registration does not list the service that was asked for."),
            65005: (
                "MisconfiguredApplication",
                "The app registration asks for a service it cannot use in this tenant.",
            ),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must check that the organisation has the service, and grant consent to the app.",
        certain=True,
        rows={
            50001: ("InvalidResource", "The service that was asked for does not exist or is switched off."),
            500011: (
                "InvalidResourceServicePrincipalNotFound",
                "The service that was asked for is not there in this tenant.",
            ),
            650052: ("", "The organisation has not subscribed to a service the app wants to use."),
            650054: ("", "A service the app wants to use is no longer there."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must correct the scopes of the app registration.",
        certain=True,
        rows={
            28002: ("", "A scope that was asked for does not exist."),
            28003: ("", "No scope was asked for."),
            1002012: ("", "An app that works without a person must ask for the scope that ends in /.default."),
            70011: ("InvalidScope", "A scope that was asked for does not exist or cannot be combined."),
            700022: ("InvalidMultipleResourcesScope", "Scopes of several services were asked for at once."),
            700023: ("InvalidResourcelessScope", "The scopes do not name a service."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must check which account types the app allows; the owner can try another account.",
        rows={
            500207: ("", "This type of account cannot be used with this app."),
            500208: ("", "This type of account (personal or work) cannot be used with this tenant."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin must correct the app registration in Entra.",
        app_wide=True,
        rows={
            50003: ("MissingSigningKey", "The app lacks a signing key in Entra."),
            50007: ("PartnerEncryptionCertificateMissing", "The app lacks an encryption certificate in Entra."),
            50010: ("AudienceUriValidationFailed", "The app names nobody its tokens are for."),
            50032: ("WeakRsaKey", "A key of the app is too weak."),
            50042: (
                "UnableToGeneratePairwiseIdentifierWithMissingSalt",
                "The app's entry in the tenant is incomplete.",
            ),
            50043: ("UnableToGeneratePairwiseIdentifierWithMultipleSalts", "The app's entry in the tenant is damaged."),
            50124: ("ClaimsTransformationInvalidInputParameter", "The app's claim rules in Entra are wrong."),
            501241: ("", "The app's claim rules in Entra lack an entry."),
            50146: ("MissingCustomSigningKey", "The app needs its own signing key, which is missing or expired."),
            501461: ("", "The app's claim mapping is not allowed for this kind of token."),
            65002: ("", "The client id belongs to an app of Microsoft, which cannot be used here."),
            70005: ("UnsupportedResponseType", "The app is not set up to receive this kind of answer."),
            700054: ("", "The app is not set up to receive ID tokens at sign-in."),
            7000110: ("", "The sign-in and the secret belong to different apps."),
            7000114: ("", "The app may not act on behalf of people."),
            90009: (
                "TokenForItselfMissingIdenticalAppIdentifier",
                "The app asks for a token for itself in a way that is not allowed.",
            ),
            90027: ("", "Personal accounts cannot be used with this version of the app."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        "An IT admin should check the app's single sign-on settings in Entra; the portal itself does not use SAML.",
        rows={
            50006: ("InvalidSignature", "The signature of a SAML message is wrong."),
            50099: ("PKeyAuthInvalidJwtUnauthorized", "The signature of a device's answer is wrong."),
            50120: ("ThresholdJwtInvalidJwtFormat", "A signed message is damaged."),
            75001: ("BindingSerializationError", "A SAML message could not be read."),
            75003: ("UnsupportedBindingError", "A SAML message was sent in a way that is not supported."),
            75005: ("Saml2MessageInvalid", "A SAML message is not valid."),
            750054: ("", "A SAML message is missing."),
            7500514: ("", "No SAML answer of a supported kind was found."),
            7500529: ("", "The id of a SAML message is not valid."),
            75008: ("RequestDeniedError", "A SAML message was meant for another address."),
            75011: (
                "NoMatchedAuthnContextInOutputClaims",
                "The person signed in in another way than the app asked for.",
            ),
            75016: (
                "Saml2AuthenticationRequestInvalidNameIDPolicy",
                "A SAML message asks for an unknown kind of name.",
            ),
            76021: ("ApplicationRequiresSignedRequests", "The app demands signed messages and got an unsigned one."),
            76026: ("RequestIssueTimeExpired", "A SAML message is too old."),
            90020: ("", "A SAML message does not say which person is meant."),
            900236: ("InvalidRequestSamlPropertyUnsupported", "A SAML message holds a setting that is not supported."),
            90081: (
                "OrgIdWsFederationMessageInvalid",
                "A message of the organisation's own sign-in service is not valid.",
            ),
            90082: ("OrgIdWsFederationNotSupported", "The organisation's sign-in rule is not supported here."),
            90087: (
                "OrgIdWsFederationMessageCreationFromUriFailed",
                "A message of the organisation's own sign-in service could not be made.",
            ),
        },
    ),
)

PORTAL_FAULT = "Nobody in the organisation can mend this; an IT admin should report it as a fault of the portal."
REQUEST = _join(
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        PORTAL_FAULT,
        rows={
            50050: ("MalformedDiscoveryRequest", "The portal's question about the cloud was malformed."),
            50061: ("SignoutInvalidRequest", "The request to sign out was malformed."),
            50068: ("SignoutInitiatorNotParticipant", "The app that asked to sign out was not signed in."),
            50070: ("SignoutUnknownSessionIdentifier", "The session to sign out of is not known."),
            50071: ("SignoutMessageExpired", "The request to sign out came too late."),
            50147: ("MissingCodeChallenge", "The protection code (PKCE) of the sign-in was missing or malformed."),
            501481: ("", "The two halves of the sign-in's protection code (PKCE) do not fit together."),
            501491: (
                "InvalidCodeChallengeMethodInvalidSize",
                "The sign-in's protection code (PKCE) has a wrong length.",
            ),
            51001: ("DomainHintMustbePresent", "The request lacks a hint about the domain."),
            700005: (
                "InvalidGrantRedeemAgainstWrongTenant",
                "The sign-in began at one tenant and was finished at another.",
            ),
            70003: ("UnsupportedGrantType", "The portal asked for a token in a way Microsoft does not know."),
            70007: ("UnsupportedResponseMode", "The portal asked for an answer in a way Microsoft does not know."),
            900144: ("", "A field of the request was missing."),
            90005: ("InvalidRequestWithMultipleRequirements", "Two fields of the request exclude each other."),
            90007: ("InvalidSessionId", "The session id in the request cannot be read."),
            90010: ("NotSupported", "The request asks for something Microsoft does not support."),
            90015: ("QueryStringTooLong", "The address of the request was too long."),
            90016: ("MissingRequiredClaim", "A token in the request lacks something."),
            90022: ("AuthenticatedInvalidPrincipalNameFormat", "An account name in the request is malformed."),
            90056: ("BadResourceRequest", "A request was sent to the wrong address of Microsoft."),
            900561: (
                "BadResourceRequestInvalidRequest",
                "A page was opened in the wrong way, often by the browser's Back button.",
            ),
            90100: ("InvalidRequestParameter", "A field of the request is empty or malformed."),
            901002: ("", "The request holds a field of an older protocol."),
            90101: ("InvalidEmailAddress", "An e-mail address in the request is malformed."),
            90102: ("InvalidUriParameter", "An address in the request is malformed."),
            90107: ("InvalidXml", "A message in the request is malformed."),
            90114: ("InvalidExpiryDate", "A date in the request lies in the past."),
            90117: ("InvalidRequestInput", "A value in the request is malformed."),
            90121: ("InvalidEmptyRequest", "The request was empty."),
            140000: ("InvalidRequestNonce", "The request lacks its one-time number."),
            165900: ("InvalidApiRequest", "The request is malformed."),
            240002: ("RequiredClaimIsMissing", "A token was used for something it is not made for."),
        },
    ),
    _group(
        Kind.APP_CONFIG,
        Who.IT_ADMIN,
        PORTAL_FAULT,
        vague=True,
        rows={
            90004: ("InvalidRequestFormat", "The request is malformed."),
            90013: ("InvalidUserInput", "A value that was typed in is not valid."),
            90014: ("MissingRequiredField", "A field of the request was missing."),
            90023: ("InvalidRequest", "Microsoft calls the request not valid."),
            9002313: ("InvalidRequest", "Microsoft calls the request, or the token in it, malformed."),
        },
    ),
)

RULE = "An IT admin must find the rule in Entra's sign-in logs and change it or exempt this app."
DEVICE = "An IT admin must exempt this app from the device rule; the portal's server cannot be such a device."
POLICY = _join(
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        RULE,
        certain=True,
        rows={
            53003: (
                "BlockedByConditionalAccess",
                "A Conditional Access rule of the organisation does not allow this sign-in.",
            ),
            530032: (
                "BlockedByConditionalAccessOnSecurityPolicy",
                "A security rule of the organisation does not allow this sign-in.",
            ),
            530034: (
                "DelegatedAdminBlockedDueToSuspiciousActivity",
                "A partner's administrator was blocked because the account is at risk.",
            ),
            530035: ("BlockedBySecurityDefaults", "The organisation's security defaults do not allow this sign-in."),
            53004: (
                "ProofUpBlockedDueToRisk",
                "The account must set up multi-factor authentication but is blocked as risky.",
            ),
            53010: (
                "ProofUpBlockedDueToSecurityInfoAcr",
                "Multi-factor authentication can only be set up at certain places or devices.",
            ),
            53011: ("", "The account is blocked as risky by its home organisation."),
        },
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        RULE,
        rows={
            50131: (
                "ConditionalAccessFailed",
                "A rule of the organisation, or suspicious activity, stopped this sign-in.",
            ),
            50161: ("InvalidExternalSecurityChallengeConfiguration", "The outside security check is not set up right."),
            50170: ("MissingExternalClaimsProviderMapping", "The outside security check is not set up right."),
            50177: (
                "ExternalChallengeNotSupportedForPassthroughUsers",
                "This kind of account cannot pass the outside security check.",
            ),
            50178: (
                "SessionControlNotSupportedForPassthroughUsers",
                "This kind of account cannot be used under the session rule.",
            ),
            51000: ("RequiredFeatureNotEnabled", "A feature that is needed is switched off in the tenant."),
            90123: ("IdentityProviderAccessDenied", "The organisation's sign-in service refused the account."),
        },
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        DEVICE,
        certain=True,
        rows={
            50005: ("DevicePolicyError", "A rule of the organisation does not support this kind of device."),
            50097: ("DeviceAuthenticationRequired", "A rule of the organisation asks for a known device."),
            50127: ("BrokerAppNotInstalled", "A rule of the organisation asks for a helper app on the device."),
            50129: ("DeviceIsNotWorkplaceJoined", "A rule of the organisation asks for a registered device."),
            53000: ("DeviceNotCompliant", "A rule of the organisation asks for a device that meets its standards."),
            530002: ("", "A rule of the organisation asks for a device that meets its standards."),
            530003: ("", "A rule of the organisation asks for a managed device."),
            53001: ("DeviceNotDomainJoined", "A rule of the organisation asks for a device of its own domain."),
            53002: ("ApplicationUsedIsNotAnApprovedApp", "A rule of the organisation allows approved apps only."),
            53005: ("", "A rule of the organisation asks for an app under its protection."),
            53009: ("", "A rule of the organisation asks for an app under its protection."),
            530084: ("", "A rule of the organisation ties sign-ins to one device."),
        },
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        "The owner can sign in from another device; otherwise an IT admin must enable or register the device again.",
        rows={
            50155: ("DeviceAuthenticationFailed", "The device used at sign-in could not prove itself."),
            50187: ("DeviceInformationNotProvided", "The device used at sign-in could not prove itself."),
            700003: ("", "The device used at sign-in was removed from the tenant."),
            130004: ("NgcKeyNotFound", "The account has no Windows Hello key."),
            130005: ("NgcInvalidSignature", "The Windows Hello signature is wrong."),
            130006: ("NgcTransportKeyNotFound", "The device has no Windows Hello key."),
            130007: ("NgcDeviceIsDisabled", "The device used at sign-in is disabled."),
            130008: ("NgcDeviceIsNotFound", "The device used at sign-in was not found."),
            135010: ("KeyNotFound", "The device's key was not found."),
            135011: ("", "The device used at sign-in is disabled."),
            140001: ("InvalidSessionKey", "The device's session key is not valid."),
            220450: ("UnsupportedAndroidWebViewVersion", "The browser of the Android device is too old."),
            221000: (
                "DeviceOnlyTokensNotSupportedByResource",
                "The service does not accept a device without a person.",
            ),
            240001: ("BulkAADJTokenUnauthorized", "This account may not register devices."),
        },
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        "An IT admin must enable the account again, or hand the connection over to another owner.",
        certain=True,
        rows={
            50057: ("UserDisabled", "The account is disabled."),
            500571: ("", "The guest account is disabled."),
        },
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        "An IT admin must restore the account, or hand the connection over to another owner.",
        certain=True,
        rows={500341: ("", "The account was deleted.")},
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        "An IT admin must invite the account as a guest, or the owner signs in with an account of this tenant.",
        rows={
            16003: ("SsoUserAccountNotFoundInResourceTenant", "The account used is not an account of this tenant."),
            50014: ("GuestUserInPendingState", "The account used is not, or not yet, a guest of this tenant."),
            50020: ("UserUnauthorized", "The account used is not an account of this tenant."),
            51004: ("UserAccountNotInDirectory", "The account used is not an account of this tenant."),
            90072: ("PassThroughUserMfaError", "The account used is not an account of this tenant."),
            90125: ("DebugModeEnrollTenantNotFound", "There is no such account."),
            90126: ("DebugModeEnrollTenantNotInferred", "Microsoft cannot tell the tenant from the account name."),
        },
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        "An IT admin must assign the account to the app in Entra.",
        certain=True,
        rows={
            50105: ("EntitlementGrantsNotFound", "The account is not assigned to the app."),
            501051: ("", "The app is not assigned to the service it wants to use."),
        },
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        "The owner can wait and try again; otherwise an IT admin must unblock the account.",
        rows={
            50053: ("IdsLocked", "The account is locked after too many wrong sign-ins, or the address is suspicious."),
            80012: ("OnPremisePasswordValidationAccountLogonInvalidHours", "The account may not sign in at this hour."),
            120014: (
                "PasswordChangeOnPremUserAccountLockedOutOrDisabled",
                "The account is locked or disabled in the organisation's own directory.",
            ),
        },
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        "An IT admin must complete the account's details in Entra.",
        rows={
            50015: (
                "ViralUserLegalAgeConsentRequiredState",
                "The account needs a consent because of the person's age.",
            ),
            54000: ("MinorUserBlockedLegalAgeGroupRule", "The account is blocked because of the person's age."),
            1000000: ("UserNotBoundError", "The account is not linked to its outside sign-in service."),
        },
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        "An IT admin must allow access between the two organisations in Entra.",
        certain=True,
        rows={
            50002: ("NotAllowedTenant", "The network's proxy does not let people sign in to this tenant."),
            500021: ("", "The network does not let people sign in to this tenant."),
            500022: ("", "The network does not let people sign in to this tenant."),
            500212: (
                "NotAllowedByOutboundPolicyTenant",
                "The person's organisation does not allow access to this tenant.",
            ),
            500213: (
                "NotAllowedByInboundPolicyTenant",
                "This tenant does not allow access from the person's organisation.",
            ),
            90084: ("OrgIdWsFederationGuestNotAllowed", "Guests are not allowed here."),
            1000104: (
                "XCB2BResourceCloudNotAllowedOnIdentityTenant",
                "Access between these two Microsoft clouds is not allowed.",
            ),
        },
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        "An IT admin must renew the subscription or switch the service on again.",
        certain=True,
        rows={500014: ("", "The service is switched off in this tenant, or its subscription has lapsed.")},
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        "An IT admin must look at the app in Entra and ask Microsoft why it is blocked.",
        app_wide=True,
        rows={1000031: ("", "Microsoft does not let anybody use this app at the moment.")},
    ),
    _group(
        Kind.POLICY,
        Who.IT_ADMIN,
        "An IT admin must mend the organisation's own sign-in service.",
        rows={
            20001: ("WsFedSignInResponseError", "The organisation's own sign-in service has a problem."),
            20012: ("WsFedMessageInvalid", "The organisation's own sign-in service has a problem."),
            20033: ("FedMetadataInvalidTenantName", "The organisation's own sign-in service has a problem."),
            40008: ("OAuth2IdPUnretryableServerError", "The outside sign-in service has a problem."),
            50008: ("InvalidSamlToken", "The organisation's own sign-in service sent something unreadable."),
            5000819: (
                "InvalidSamlTokenEmailMissingOrInvalid",
                "The organisation's own sign-in service sent no usable e-mail address.",
            ),
            50017: ("CertificateValidationFailed", "The person's certificate could not be checked."),
            67003: ("ActorNotValidServiceIdentity", "The service that asked is not a valid one."),
            80010: (
                "OnPremisePasswordValidationEncryptionException",
                "The organisation's own directory could not read the password.",
            ),
            81007: ("DesktopSsoTenantIsNotOptIn", "The tenant is not set up for Windows single sign-on."),
            120012: (
                "PasswordChangeNeedsToHappenOnPrem",
                "The password must be changed in the organisation's own directory.",
            ),
            120015: ("PasswordChangeADAdminActionRequired", "The organisation's own directory needs an administrator."),
        },
    ),
)

WAIT = "Nobody needs to do anything; the portal tries again by itself."
DIRECTORY = (
    "The portal tries again by itself; if it stays, an IT admin must check the organisation's own directory servers."
)
PASSING = _join(
    _group(
        Kind.TRANSIENT,
        Who.MICROSOFT,
        WAIT,
        rows={
            40010: ("OAuth2IdPRetryableServerError", "The outside sign-in service has a passing problem."),
            50000: ("TokenIssuanceError", "Microsoft's sign-in service has a problem."),
            50033: ("RetryableError", "Microsoft's sign-in service has a passing problem."),
            50087: ("SasRetryableError", "Multi-factor authentication has a passing problem."),
            501621: ("ClaimsTransformationTimeoutRegularExpressionTimeout", "A claim rule of the app took too long."),
            50166: ("ExternalClaimsProviderThrottled", "The outside security check could not be reached."),
            51005: ("TemporaryRedirect", "Microsoft answered from another place for a moment."),
            70012: ("MsaServerError", "The sign-in service for personal accounts has a problem."),
            90006: ("ExternalServerRetryableError", "Microsoft's service is not available for the moment."),
            90012: ("RequestTimeout", "Microsoft's service took too long."),
            90024: ("RequestBudgetExceededError", "Microsoft's service has a passing problem."),
            90033: ("MsodsServiceUnavailable", "Microsoft's directory is not available for the moment."),
            90090: ("GraphRetryableError", "Microsoft's directory is not available for the moment."),
            90091: ("GraphServiceUnreachable", "Microsoft's directory could not be reached."),
            100007: ("", "Microsoft's regional sign-in service does not serve this app."),
            120021: ("PartnerServiceSsprInternalServerError", "Microsoft's password service has a problem."),
            220501: ("InvalidCrlDownload", "A list of revoked certificates could not be fetched."),
            230109: (
                "CachedCredentialNonGWAuthNRequestsNotSupported",
                "Microsoft's backup sign-in service was reached by a wrong way.",
            ),
        },
    ),
    _group(
        Kind.TRANSIENT,
        Who.MICROSOFT,
        "The portal tries again by itself; if it stays, an IT admin must open a support case with Microsoft.",
        rows={
            90036: ("MsodsServiceUnretryableFailure", "Microsoft's directory has a problem."),
            90085: ("OrgIdWsFederationSltRedemptionFailed", "Microsoft has not finished setting up the organisation."),
            90086: ("OrgIdWsTrustDaTokenExpired", "A token between Microsoft's services has expired."),
            90092: ("GraphNonRetryableError", "Microsoft's directory has a problem."),
            165004: ("", "Microsoft's service gave an error that says no more."),
        },
    ),
    _group(
        Kind.TRANSIENT,
        Who.IT_ADMIN,
        DIRECTORY,
        rows={
            80001: ("OnPremiseStoreIsNotAvailable", "Microsoft cannot reach the organisation's own directory."),
            80002: ("OnPremisePasswordValidatorRequestTimedout", "The organisation's own directory took too long."),
            80005: (
                "OnPremisePasswordValidatorUnpredictableWebException",
                "The organisation's own directory gave a strange answer.",
            ),
            80007: (
                "OnPremisePasswordValidatorErrorOccurredOnPrem",
                "The organisation's own directory could not check the password.",
            ),
            80013: (
                "OnPremisePasswordValidationTimeSkew",
                "The clocks of the organisation's own directory servers differ.",
            ),
            80014: (
                "OnPremisePasswordValidationAuthenticationAgentTimeout",
                "The organisation's own directory took too long.",
            ),
            120005: (
                "PasswordChangeOnPremSuccessCloudFail",
                "The password was changed in the organisation, not yet at Microsoft.",
            ),
            120013: (
                "PasswordChangeOnPremisesConnectivityFailure",
                "Microsoft cannot reach the organisation's own directory.",
            ),
        },
    ),
    _group(
        Kind.TRANSIENT,
        Who.OWNER,
        "The person should finish the sign-in page that is open.",
        rows={
            70016: ("AuthorizationPending", "Microsoft is still waiting for the person to finish signing in."),
            50134: ("DeviceFlowAuthorizeWrongDatacenter", "The sign-in was finished in another region than it began."),
        },
    ),
    _group(
        Kind.THROTTLED,
        Who.NOBODY,
        WAIT,
        rows={
            50088: ("", "Too many multi-factor calls and messages were sent."),
            50196: ("LoopDetected", "The same request was sent too often in a short time."),
            90055: ("TenantThrottlingError", "Too many requests were sent for this tenant."),
        },
    ),
)

AADSTS = _join(SIGN_IN, CONSENT, CREDENTIALS, APP_REGISTRATION, REQUEST, POLICY, PASSING)


def family_of(number: int) -> ErrorMeaning | None:
    """What an unknown six or seven digit number means by its family, or None when that is unsafe.

    Microsoft refines a five-digit number by appending digits (16002 → 160021, 50057 → 500571,
    53003 → 530032, 70001 → 7000112, 70002 → 7000215): seen throughout
    identity-platform/reference-error-codes. So the parent is the first five digits; a longer
    common beginning misleads (7000222 is no child of 700022). Families that hold several troubles
    have no safe parent. A guess is never certain and never speaks for the whole app.
    """
    digits = str(number)
    if len(digits) not in (6, 7):
        return None
    entry = AADSTS.get(int(digits[:5]))
    if entry is None or entry.vague:
        return None
    return ErrorMeaning(entry.kind, entry.who, entry.cause, entry.action)
