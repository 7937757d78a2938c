//! Tokens of a file: lines of `token,user,uid,"group1,group2"`.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use crate::auth::User;

/// The users of a token file, by the digest of their token: a lookup's time tells nothing of the tokens.
#[derive(Debug, Default)]
pub struct TokenFile(HashMap<[u8; 32], User>);

impl TokenFile {
    /// # Errors
    /// Which line is no record.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut users = HashMap::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let fields = fields(line).ok_or_else(|| format!("line {number}: a quote is not closed"))?;
            let [token, name, uid, groups @ ..] = fields.as_slice() else {
                return Err(format!("line {number}: must have token, user and uid, and may have groups"));
            };
            if token.is_empty() || name.is_empty() {
                return Err(format!("line {number}: token and user must not be empty"));
            }
            let groups = groups.first().map(String::as_str).unwrap_or_default().split(',');
            let groups = groups.map(str::trim).filter(|group| !group.is_empty()).map(str::to_owned);
            let user = User { uid: uid.as_str().into(), ..User::new(name, groups.collect()) };
            users.insert(Sha256::digest(token).into(), user);
        }
        Ok(Self(users))
    }

    pub fn user(&self, token: &str) -> Option<&User> {
        self.0.get(&<[u8; 32]>::from(Sha256::digest(token)))
    }
}

/// The fields of a line, with commas in quoted ones; `None` where a quote stays open.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    for letter in line.trim().chars() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            other => fields.last_mut().expect("there is one").push(other),
        }
    }
    (!is_quoted).then(|| fields.into_iter().map(|field| field.trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_user() {
        let file = TokenFile::parse("t1,jane,7,\"devs,ops\"\n\nt2,joe,8\n").expect("well-formed");
        let jane = file.user("t1").expect("jane");
        assert_eq!((&*jane.name, &*jane.uid), ("jane", "7"));
        assert_eq!(*jane.groups, ["devs", "ops", "system:authenticated"]);
        assert_eq!(*file.user("t2").expect("joe").groups, ["system:authenticated"]);
        assert!(file.user("t3").is_none() && file.user("").is_none());
    }

    #[test]
    fn what_is_no_record_is_told_by_line() {
        let told = |text| TokenFile::parse(text).expect_err("not well-formed");
        assert_eq!(told("t1,jane,1\nt2"), "line 2: must have token, user and uid, and may have groups");
        assert_eq!(told("t1,jane,1,\"a"), "line 1: a quote is not closed");
        assert_eq!(told(",jane,1"), "line 1: token and user must not be empty");
    }
}
